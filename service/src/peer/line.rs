//! The line to a peer: one stream, on which look-ups go and answers come for as long as the connection lasts.
//!
//! A call of its own costs a look-up several times what it does at the peer: heads and trailers to encode, and a task on each side
//! for it to run in. On the line a question is one frame, and so is its answer.

use std::{collections::HashMap, sync::Arc};

use holdfast_proto::holdfast::v1::{self as pb, peer_service_client::PeerServiceClient};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

use super::token::Token;

/// Questions on their way, from which on further ones are refused: the peer has not answered for long.
const QUESTIONS: usize = 1024;

type Answer = Result<pb::PeerBatchGetResponse, Status>;

/// The line to one peer: opened when first used, and again after it has ended.
#[derive(Debug, Default)]
pub(super) struct Line(Mutex<Option<Open>>);

#[derive(Debug)]
struct Open {
    /// The stream ends when this is dropped.
    questions: mpsc::Sender<pb::PeerLookUp>,
    asked: Arc<Mutex<Asked>>,
}

/// Who waits for answers.
#[derive(Debug, Default)]
struct Asked {
    last: u64,
    waiting: HashMap<u64, oneshot::Sender<Answer>>,
    ended: bool,
}

impl Line {
    /// Puts a question. A status means that it was not answered, and may be put again.
    pub(super) async fn ask(
        &self,
        client: impl FnOnce() -> Result<PeerServiceClient<Channel>, Status>,
        token: &Token,
        question: pb::PeerBatchGetRequest,
    ) -> Answer {
        let answer = self.send(client, token, question)?;
        answer.await.unwrap_or_else(|_| Err(Status::cancelled("this instance ends")))
    }

    fn send(
        &self,
        client: impl FnOnce() -> Result<PeerServiceClient<Channel>, Status>,
        token: &Token,
        question: pb::PeerBatchGetRequest,
    ) -> Result<oneshot::Receiver<Answer>, Status> {
        let mut line = self.0.lock();
        let open = match line.take().filter(Open::lasts) {
            Some(open) => open,
            None => Open::new(client()?, token),
        };
        let open = line.insert(open);
        let mut asked = open.asked.lock();
        if asked.waiting.len() >= QUESTIONS {
            // Those who have given up.
            asked.waiting.retain(|_, told| !told.is_closed());
        }
        let full = || Status::unavailable(format!("{QUESTIONS} questions wait for their answers already"));
        let place = open.questions.try_reserve().map_err(|_| full())?;
        if asked.waiting.len() >= QUESTIONS {
            return Err(full());
        }
        asked.last += 1;
        let id = asked.last;
        let (told, answer) = oneshot::channel();
        asked.waiting.insert(id, told);
        place.send(pb::PeerLookUp { id, question: Some(question) });
        Ok(answer)
    }
}

impl Open {
    fn new(mut client: PeerServiceClient<Channel>, token: &Token) -> Self {
        let (questions, sent) = mpsc::channel(QUESTIONS);
        let asked = Arc::new(Mutex::new(Asked::default()));
        let request = token.request(ReceiverStream::new(sent));
        let told = Arc::clone(&asked);
        // It lives as long as the stream, which ends with the sender above.
        tokio::spawn(async move {
            let status = match client.look_up(request).await {
                Ok(answers) => listen(answers.into_inner(), &told).await,
                Err(status) => status,
            };
            let waiting = {
                let mut asked = told.lock();
                asked.ended = true;
                std::mem::take(&mut asked.waiting)
            };
            for told in waiting.into_values() {
                // Who has given up meanwhile does not listen.
                let _ = told.send(Err(status.clone()));
            }
        });
        Self { questions, asked }
    }

    /// Whether questions may get an answer yet: neither direction of the stream has ended.
    fn lasts(&self) -> bool {
        !self.questions.is_closed() && !self.asked.lock().ended
    }
}

/// Passes answers on until the stream ends, and says how it did.
async fn listen(mut answers: Streaming<pb::PeerLookUpAnswer>, asked: &Mutex<Asked>) -> Status {
    loop {
        match answers.message().await {
            Ok(Some(pb::PeerLookUpAnswer { id, answer })) => {
                let told = asked.lock().waiting.remove(&id);
                if let Some(told) = told {
                    let _ = told.send(Ok(answer.unwrap_or_default()));
                }
            }
            Ok(None) => return Status::unavailable("the peer has ended the connection"),
            Err(status) => return status,
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::{Code, transport::Endpoint};

    use super::*;

    #[tokio::test]
    async fn a_peer_that_does_not_answer_is_asked_a_bounded_number_of_questions() {
        // Connections are opened by the kernel; nobody takes them.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", silent.local_addr().unwrap());
        let client = || Ok(PeerServiceClient::new(Endpoint::from_shared(address.clone()).unwrap().connect_lazy()));
        let (line, token) = (Line::default(), Token::default());
        let send = || line.send(client, &token, pb::PeerBatchGetRequest::default());
        let mut waiting: Vec<_> = (0..QUESTIONS).map(|_| send().unwrap()).collect();
        assert_eq!(send().unwrap_err().code(), Code::Unavailable);
        // The connection ends, and with it the line; the next question opens another.
        drop(silent);
        for answer in waiting.drain(..) {
            assert!(answer.await.unwrap().is_err());
        }
        assert!(send().is_ok());
    }
}
