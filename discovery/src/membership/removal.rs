//! DescribeGroups and LeaveGroup for other members: those whose process is known to be gone.

use std::time::Duration;

use kafka_protocol::{
    messages::{
        DescribeGroupsRequest, GroupId, LeaveGroupRequest, describe_groups_response::DescribedGroup,
        leave_group_request::MemberIdentity,
    },
    protocol::StrBytes,
};

use crate::wire::{
    connection::Connection,
    error::{WireError, code},
};

/// Who is in the group. A group that does not exist has no members.
pub(super) async fn describe(
    connection: &mut Connection,
    group_id: &str,
    after: Duration,
) -> Result<DescribedGroup, WireError> {
    let version = connection.require::<DescribeGroupsRequest>(i16::MAX)?;
    let request = DescribeGroupsRequest::default().with_groups(vec![group(group_id)]);
    let answer = connection.call(&request, version, after).await?;
    let described = answer.groups.into_iter().next().unwrap_or_default();
    match described.error_code {
        code::NONE | code::GROUP_ID_NOT_FOUND => Ok(described),
        code => Err(WireError::Refused { peer: connection.peer().to_owned(), request: "DescribeGroups", code }),
    }
}

/// Removes members, which any member may do. One that is gone meanwhile is no error.
pub(super) async fn remove_members(
    connection: &mut Connection,
    group_id: &str,
    members: &[&str],
    reason: &str,
    after: Duration,
) -> Result<(), WireError> {
    let version = connection.require::<LeaveGroupRequest>(i16::MAX)?;
    let request = LeaveGroupRequest::default().with_group_id(group(group_id));
    // Before version 3 a request removes one member.
    let requests: Vec<LeaveGroupRequest> = if version < 3 {
        members.iter().map(|member| request.clone().with_member_id(text(member))).collect()
    } else {
        let members = members.iter().map(|member| {
            let member = MemberIdentity::default().with_member_id(text(member));
            if version >= 5 { member.with_reason(Some(text(reason))) } else { member }
        });
        vec![request.with_members(members.collect())]
    };
    for request in requests {
        let answer = connection.call(&request, version, after).await?;
        // The session timeout may have been faster; then there is nothing left to remove.
        if !matches!(answer.error_code, code::NONE | code::UNKNOWN_MEMBER_ID) {
            let (peer, code) = (connection.peer().to_owned(), answer.error_code);
            return Err(WireError::Refused { peer, request: "LeaveGroup", code });
        }
    }
    Ok(())
}

fn group(group_id: &str) -> GroupId {
    GroupId(text(group_id))
}

pub(super) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}
