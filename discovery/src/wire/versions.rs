//! Which version of each request both sides speak.

use std::collections::HashMap;

use kafka_protocol::{
    messages::ApiVersionsResponse,
    protocol::{Message as _, Request, VersionRange},
};

/// What a broker offers, as its ApiVersions answer says.
#[derive(Debug, Default)]
pub(super) struct ApiVersions(HashMap<i16, VersionRange>);

impl ApiVersions {
    pub(super) fn from_response(response: &ApiVersionsResponse) -> Self {
        let range = |min, max| VersionRange { min, max };
        Self(response.api_keys.iter().map(|api| (api.api_key, range(api.min_version, api.max_version))).collect())
    }

    /// The newest version of `R` that the broker, the codec and `newest` (what the caller can fill in) all know.
    pub(super) fn choose<R: Request>(&self, newest: i16) -> Option<i16> {
        // The codec may know a response in versions that it does not know the request in, and the other way round.
        let ours = R::VERSIONS.intersect(&R::Response::VERSIONS).intersect(&VersionRange { min: 0, max: newest });
        let both = self.0.get(&R::KEY)?.intersect(&ours);
        (!both.is_empty()).then_some(both.max)
    }
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::{HeartbeatRequest, OffsetCommitRequest, api_versions_response::ApiVersion};

    use super::*;

    fn offered(key: i16, min: i16, max: i16) -> ApiVersions {
        let api = ApiVersion::default().with_api_key(key).with_min_version(min).with_max_version(max);
        ApiVersions::from_response(&ApiVersionsResponse::default().with_api_keys(vec![api]))
    }

    #[test]
    fn the_newest_common_version_is_chosen() {
        assert_eq!(HeartbeatRequest::VERSIONS.max, 4);
        for (min, max, newest, chosen) in [
            (0, 4, i16::MAX, Some(4)),
            (0, 9, i16::MAX, Some(4)),
            (0, 2, i16::MAX, Some(2)),
            (0, 4, 3, Some(3)),
            (5, 9, i16::MAX, None),
            (3, 4, 2, None),
        ] {
            assert_eq!(
                offered(HeartbeatRequest::KEY, min, max).choose::<HeartbeatRequest>(newest),
                chosen,
                "{min}..{max}"
            );
        }
        assert_eq!(offered(HeartbeatRequest::KEY, 0, 4).choose::<OffsetCommitRequest>(i16::MAX), None);
    }
}
