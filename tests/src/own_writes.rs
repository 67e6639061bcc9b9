//! A client that reads what it has just written, by `min_position`, through any instance.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rdkafka::{
    ClientContext, Message,
    message::DeliveryResult,
    producer::{BaseRecord, ProducerContext, ThreadedProducer},
};

use crate::{inventory::STORES, kafka::Kafka, load::transaction, model::Model, rest::Rest, rest::stock, wait::Pace};

const WRITE_LIMIT: Duration = Duration::from_secs(150);
const PER_S: f64 = 20.0;
const STORES_OF_ITS_OWN: u64 = 16;

/// Tells where each record stands.
struct Receipts(mpsc::SyncSender<(i32, i64)>);

impl ClientContext for Receipts {}

impl ProducerContext for Receipts {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        // One that failed is missed by its writer.
        if let Ok(message) = result {
            let _ = self.0.try_send((message.partition(), message.offset()));
        }
    }
}

/// Writes to stores of its own and reads them until [`OwnWrites::finish`]. A read may be refused; one that is answered must
/// show the write.
#[derive(Debug)]
pub struct OwnWrites {
    client: Option<JoinHandle<Written>>,
    through: Arc<RwLock<Vec<Rest>>>,
    stop: Arc<AtomicBool>,
}

/// What was written, and how the reads went.
#[derive(Debug, Default)]
pub struct Written {
    values: Vec<Vec<u8>>,
    /// Reads answered.
    pub answered: u64,
    /// Why reads were refused.
    pub refused: Vec<String>,
}

impl Written {
    /// Counts what was written in the model of all writers.
    pub fn apply_to(&self, model: &mut Model) {
        for value in &self.values {
            model.apply(value);
        }
    }
}

impl OwnWrites {
    /// Writes to `topic`, the inventory's input, with items among `Item_0` to `Item_<items>`.
    pub fn start(kafka: &Kafka, topic: &str, rests: &[Rest], items: u64) -> Self {
        let (receipts, received) = mpsc::sync_channel(1);
        let mut client = kafka.client();
        client.set("enable.idempotence", "true").set("partitioner", "murmur2_random");
        client.set("message.timeout.ms", "120000");
        let producer: ThreadedProducer<Receipts> = client.create_with_context(Receipts(receipts)).unwrap();
        let through = Arc::new(RwLock::new(rests.to_vec()));
        let stop = Arc::new(AtomicBool::new(false));
        let (topic, routes, stopped) = (topic.to_owned(), Arc::clone(&through), Arc::clone(&stop));
        let client = thread::spawn(move || {
            let (mut written, pace) = (Written::default(), Pace::new(PER_S));
            let mut stocks: BTreeMap<(String, String), i64> = BTreeMap::new();
            for number in 0_u64.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                pace.hold(number);
                let (store, item) = (format!("Own_{}", number % STORES_OF_ITS_OWN), format!("Item_{}", number % items));
                let value = transaction(&store, &item, "RESTOCK", 1);
                let record = BaseRecord::<[u8], [u8]>::to(&topic).key(store.as_bytes()).payload(&value);
                producer.send(record).map_err(|(error, _)| error).unwrap();
                let (partition, offset) = received.recv_timeout(WRITE_LIMIT).expect("a write was not acknowledged");
                written.values.push(value);
                let expected = stocks.entry((store.clone(), item.clone())).or_default();
                *expected += 1;
                let rest = routes.read().unwrap();
                let rest = rest[usize::try_from(number).unwrap() % rest.len()].clone();
                match read(&rest, &routes, &store, &format!("{topic}-{partition}:{offset}")) {
                    Ok(stock) => {
                        let seen = stock.get(&item).copied().unwrap_or(0);
                        assert!(seen >= *expected, "{store} {item} at {}: {seen} of {expected}", rest.address());
                        written.answered += 1;
                    }
                    Err(why) => written.refused.push(why),
                }
            }
            written
        });
        Self { client: Some(client), through, stop }
    }

    /// Reads through these from now on; see [`crate::readers::Readers::go_through`].
    pub fn go_through(&self, rests: &[Rest]) {
        *self.through.write().unwrap() = rests.to_vec();
    }

    /// Ends it.
    #[track_caller]
    pub fn finish(mut self) -> Written {
        self.stop.store(true, Ordering::Relaxed);
        self.client.take().unwrap().join().expect("the client that reads its own writes failed; its message is above")
    }
}

impl Drop for OwnWrites {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The row at that position or a later one; why it was refused.
fn read(
    rest: &Rest,
    through: &RwLock<Vec<Rest>>,
    store: &str,
    position: &str,
) -> Result<BTreeMap<String, i64>, String> {
    let path = format!("/v1/stores/{STORES}/keys/{store}?consistency=any&timeout=1000&min_position={position}");
    match rest.get(&path) {
        Ok(answer) if answer.status == 200 => Ok(stock(&answer.json()["value"])),
        Ok(answer) if matches!(answer.status, 503 | 504) => Err(format!("{}: {}", rest.address(), answer.body)),
        // Whoever was taken out may leave a question open.
        Err(gone) if !through.read().unwrap().iter().any(|through| through.address() == rest.address()) => {
            Err(gone.to_string())
        }
        wrong => panic!("{store} at {} by {position}: {wrong:?}", rest.address()),
    }
}
