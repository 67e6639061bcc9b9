//! The login: SaslHandshake, then the mechanism's messages in SaslAuthenticate.

use std::{io::Cursor, time::Duration};

use kafka_protocol::{
    messages::{SaslAuthenticateRequest, SaslHandshakeRequest},
    protocol::StrBytes,
};
use rsasl::prelude::{Mechname, SASLClient, SASLConfig, Session, State};

use super::{
    connection::Connection,
    error::{WireError, code, code_name},
    security::{SaslMechanism, SaslSettings},
};

/// One step of a login; the whole connection setup has its own, shared bound.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// Logs in on a connection that has negotiated versions, or logs in again on one that serves already.
pub(super) async fn log_in(connection: &mut Connection, settings: &SaslSettings) -> Result<(), WireError> {
    let peer = connection.peer().to_owned();
    let refused =
        |reason: String| WireError::Authentication { peer: peer.clone(), mechanism: settings.mechanism.name(), reason };

    let handshake =
        SaslHandshakeRequest::default().with_mechanism(StrBytes::from_static_str(settings.mechanism.name()));
    // Version 0 sends the mechanism's bytes bare instead of in SaslAuthenticate; no broker since 1.0 needs it.
    let version = connection.require::<SaslHandshakeRequest>(1)?.max(1);
    let answer = connection.call(&handshake, version, STEP_TIMEOUT).await?;
    if answer.error_code == code::UNSUPPORTED_SASL_MECHANISM {
        let offered: Vec<&str> = answer.mechanisms.iter().map(|name| name.as_str()).collect();
        return Err(refused(format!("the listener offers {}", offered.join(", "))));
    }
    if answer.error_code != code::NONE {
        return Err(refused(code_name(answer.error_code)));
    }

    let mut mechanism = Mechanism::start(settings).map_err(&refused)?;
    let mut challenge: Option<Vec<u8>> = None;
    let mut lifetime_ms = 0;
    loop {
        let Step { send, done } = mechanism.step(challenge.as_deref()).map_err(&refused)?;
        if let Some(bytes) = send {
            let version = connection.require::<SaslAuthenticateRequest>(i16::MAX)?;
            let request = SaslAuthenticateRequest::default().with_auth_bytes(bytes.into());
            let answer = connection.call(&request, version, STEP_TIMEOUT).await?;
            if answer.error_code != code::NONE {
                let message = answer.error_message.map(|message| message.to_string());
                return Err(refused(message.unwrap_or_else(|| code_name(answer.error_code))));
            }
            lifetime_ms = answer.session_lifetime_ms;
            challenge = Some(answer.auth_bytes.to_vec());
        }
        if done {
            break;
        }
    }
    connection.logged_in_for(Duration::from_millis(u64::try_from(lifetime_ms).unwrap_or(0)));
    Ok(())
}

struct Step {
    send: Option<Vec<u8>>,
    done: bool,
}

/// The client's side of a mechanism.
enum Mechanism {
    /// The one message of RFC 4616. Written here because librdkafka sends user and password as they are, and a SASLprep in
    /// between would make another password of some.
    Plain(Vec<u8>),
    Scram(Box<Session>),
}

impl Mechanism {
    fn start(settings: &SaslSettings) -> Result<Self, String> {
        if settings.mechanism == SaslMechanism::Plain {
            return Ok(Self::Plain(format!("\0{}\0{}", settings.username, settings.password).into_bytes()));
        }
        let config = SASLConfig::with_credentials(None, settings.username.clone(), settings.password.clone())
            .map_err(|error| error.to_string())?;
        let name = Mechname::parse(settings.mechanism.name().as_bytes()).map_err(|error| error.to_string())?;
        let session = SASLClient::new(config).start_suggested(&[name]).map_err(|error| error.to_string())?;
        Ok(Self::Scram(Box::new(session)))
    }

    fn step(&mut self, challenge: Option<&[u8]>) -> Result<Step, String> {
        match self {
            Self::Plain(message) => Ok(Step { send: Some(std::mem::take(message)), done: true }),
            Self::Scram(session) => {
                let mut out = Cursor::new(Vec::new());
                let state = session.step(challenge, &mut out).map_err(|error| error.to_string())?;
                let out = out.into_inner();
                let done = matches!(state, State::Finished(_));
                // The last step only checks the server's signature, and has nothing to send.
                Ok(Step { send: (!done || !out.is_empty()).then_some(out), done })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(mechanism: SaslMechanism) -> SaslSettings {
        SaslSettings { mechanism, username: "user".to_owned(), password: "pencil".to_owned() }
    }

    #[test]
    fn plain_is_one_message() {
        let step = Mechanism::start(&settings(SaslMechanism::Plain)).unwrap().step(None).unwrap();
        assert_eq!(step.send.as_deref(), Some(&b"\0user\0pencil"[..]));
        assert!(step.done);
    }

    #[test]
    fn scram_starts_and_refuses_a_foreign_nonce() {
        for mechanism in [SaslMechanism::ScramSha256, SaslMechanism::ScramSha512] {
            let mut scram = Mechanism::start(&settings(mechanism)).unwrap();
            let first = scram.step(None).unwrap();
            assert!(first.send.unwrap().starts_with(b"n,,n=user,r="));
            assert!(!first.done);
            assert!(scram.step(Some(b"r=stolen,s=QSXCR+Q6sek8bf92,i=4096")).is_err());
        }
    }
}
