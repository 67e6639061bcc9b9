//! Any instance answers for any key: over REST and gRPC, singly, in batches and in scans, from whoever holds it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
    time::Duration,
};

use holdfast_proto::holdfast::v1::{
    self as pb, GetRequest, PeerGetRequest, ReadOptions, batch_get_result::Outcome,
    peer_service_client::PeerServiceClient,
};
use holdfast_tests::{
    block_on, cluster,
    grpc::{Grpc, text_key},
    instance::{self, Instance, InstanceConfig},
    inventory::{ITEMS, STORES, Tables, wait_rows},
    kafka::{Kafka, Names},
    load::{Load, LoadConfig},
    model::Model,
    rest::{self, Rest},
    tasks, wait,
};
use serde_json::Value;
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint},
};

const LIMIT: Duration = Duration::from_secs(60);
const LOAD: LoadConfig = LoadConfig { stores: 150, skus: 30, bad_one_in: 0, counting: false };
const TOKEN: &str = "only-for-instances";

/// Three instances that share all tasks of both aggregates, and what their rows are.
struct Three {
    instances: Vec<Instance>,
    rests: Vec<Rest>,
    model: Model,
}

impl Three {
    fn start(test: &str) -> Self {
        let kafka = Kafka::shared();
        let names = Names::fresh(test);
        names.create_topics(kafka, 6);
        let config = InstanceConfig::new(kafka, &names).set("peer_token", TOKEN).set("num_stream_threads", "1");
        let mut instances = cluster::start(&config, 3);
        let mut model = Model::default();
        Load::new(LOAD, 1).write(kafka, &names, 5_000, &mut model);
        let rests: Vec<Rest> = instances.iter_mut().map(Instance::rest).collect();
        wait_rows(&rests[0], &model, LIMIT);
        tasks::wait_settled(&mut instances.iter_mut().collect::<Vec<_>>(), 12, None, LIMIT);
        // Copies that tasks left behind when they moved are readable for a moment longer.
        for (rest, store) in rests.iter().flat_map(|rest| [(rest, STORES), (rest, ITEMS)]) {
            let page = format!("/v1/stores/{store}/keys?limit=1");
            let what = format!("only actives to answer for {store} at {}", rest.address());
            wait::until_equal(what, LIMIT, &"active".to_owned(), || {
                rest.fetch(&page).header("Holdfast-Role").to_owned()
            });
        }
        Self { instances, rests, model }
    }

    /// Who processes the tasks of the first sub-topology, which owns [`STORES`].
    fn owners(&self) -> BTreeSet<String> {
        let described = self.rests[0].fetch("/v1/instances").expect_status(200).json();
        let owns = |member: &&Value| {
            member["active"].as_array().unwrap().iter().any(|task| task.as_str().unwrap().starts_with("0_"))
        };
        cluster::members(&described).filter(owns).map(|member| cluster::text(member, "endpoint")).collect()
    }

    fn stop(mut self) {
        for instance in &mut self.instances {
            instance.begin_termination();
        }
        for instance in &mut self.instances {
            let (status, log) = instance.wait_for_exit();
            assert!(status.success(), "{log}");
        }
    }

    /// A metric over all instances.
    fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.rests.iter().map(|rest| rest.metric(name, labels).unwrap_or(0.0)).sum()
    }
}

fn by_rest(rest: &Rest, store: &str, key: &str, options: &str) -> rest::Answer {
    rest.fetch(&format!("/v1/stores/{store}/keys/{}{options}", rest::encode(key)))
}

#[test]
fn every_instance_answers_for_every_key() {
    let mut three = Three::start("forwarding");
    let expected = Tables::of_model(&three.model);
    let mut owners = BTreeMap::<String, BTreeSet<String>>::new();
    let all = three.owners();
    assert!(all.len() > 1, "{all:?}");
    for index in 0..3 {
        let rest = &three.rests[index];
        let address = rest.address().to_owned();
        // Scans merge the partitions of all instances, page by page.
        assert_eq!(Tables::of_rest(rest), expected, "scans at {address}");
        let page = rest.fetch(&format!("/v1/stores/{STORES}/keys?limit=5")).expect_status(200);
        let by: BTreeSet<String> = page.header("Holdfast-Served-By").split(',').map(str::to_owned).collect();
        assert_eq!(by, all, "{page:?}");
        assert_eq!(page.header("Holdfast-Role"), "active");
        // Batches reach all owners, and come in the order asked.
        let keys: Vec<String> = expected.stores.keys().cloned().chain(["nobody".to_owned()]).collect();
        for ((key, value), asked) in rest.batch(STORES, &keys).iter().zip(&keys) {
            assert_eq!(key, asked);
            assert_eq!(value.as_ref().map(rest::stock).as_ref(), expected.stores.get(asked), "{asked} in a batch");
        }
        // Single keys, each served by one and the same owner, whomever one asks.
        for (store, stock) in &expected.stores {
            let answer = by_rest(rest, STORES, store, "").expect_status(200);
            assert_eq!(&rest::stock(&answer.json()["value"]), stock, "{store} at {address}");
            assert_eq!(answer.header("Holdfast-Role"), "active");
            for header in ["Holdfast-Partition", "Holdfast-Position", "Holdfast-Staleness-Ms"] {
                assert!(!answer.header(header).is_empty(), "{header}: {answer:?}");
            }
            owners.entry(store.clone()).or_default().insert(answer.header("Holdfast-Served-By").to_owned());
            assert_eq!(rest.store_stock(store).as_ref(), Some(stock), "the lab's path");
        }
        for (item, stock) in &expected.items {
            assert_eq!(rest.item_stock(item), Some(*stock), "{item} at {address}");
        }
        for key in 0..20 {
            let answer = by_rest(rest, ITEMS, &format!("Nothing_{key}"), "");
            assert_eq!((answer.status, answer.json()["code"].as_str()), (404, Some("NOT_FOUND")), "{answer:?}");
        }
        // Strong: the owner's coordinator confirms it.
        for store in expected.stores.keys().take(20) {
            let answer = by_rest(rest, STORES, store, "?consistency=strong").expect_status(200);
            assert_eq!(&rest::stock(&answer.json()["value"]), &expected.stores[store]);
        }
    }
    assert!(owners.values().all(|owners| owners.len() == 1), "one owner for each key: {owners:?}");
    let served: BTreeSet<String> = owners.values().flatten().cloned().collect();
    assert_eq!(served, all, "keys spread over all partitions");

    for instance in &mut three.instances {
        let grpc = Grpc::connect(&instance.address());
        check_grpc(&grpc, &expected);
    }
    check_routes(&three, &owners);
    check_explained(&three, owners.keys().take(8));
    check_redirects(&three, &owners);
    three.stop();
}

fn check_grpc(grpc: &Grpc, expected: &Tables) {
    let stock = |row: &pb::Row| rest::stock(&serde_json::from_str(&row.value_json).unwrap());
    for (store, stocked) in &expected.stores {
        let answer = grpc.get(STORES, store).unwrap();
        assert_eq!(&stock(&answer.row.unwrap()), stocked, "{store}");
        assert_eq!(answer.served.unwrap().role(), pb::Role::Active);
    }
    assert_eq!(grpc.get(STORES, "nobody").unwrap_err().code(), Code::NotFound);
    let item = expected.items.keys().next().unwrap();
    assert_eq!(grpc.item_stock(item).ok(), expected.items.get(item).copied());
    let keys: Vec<&str> = expected.stores.keys().map(String::as_str).collect();
    for (result, key) in grpc.batch(STORES, &keys).unwrap().into_iter().zip(&keys) {
        let Some(Outcome::Row(row)) = result.outcome else { panic!("{key}: {result:?}") };
        assert_eq!(stock(&row), expected.stores[*key], "{key} in a batch");
    }
    let scanned: BTreeMap<String, _> =
        grpc.scan(STORES).unwrap().into_iter().map(|row| (row.key.clone(), stock(&row))).collect();
    assert_eq!(scanned, expected.stores);
    let strong = ReadOptions { consistency: pb::Consistency::Strong.into(), ..ReadOptions::default() };
    let key = Some(text_key(keys[0]));
    let request = GetRequest { store: STORES.to_owned(), key, options: Some(strong) };
    assert!(block_on(grpc.queries().get(request)).is_ok());
}

/// Every instance tells of every key where it is, and who would be asked.
fn check_routes(three: &Three, owners: &BTreeMap<String, BTreeSet<String>>) {
    for rest in &three.rests {
        for (store, owner) in owners.iter().take(30) {
            let route = rest.fetch(&format!("/v1/route?store={STORES}&key={store}")).expect_status(200).json();
            let owner = owner.first().unwrap().as_str();
            assert_eq!((route["active"].as_str(), route["would_ask"].as_str()), (Some(owner), Some(owner)), "{route}");
            if owner == rest.address() {
                assert_eq!(route["local"]["role"], "active", "{route}");
            } else {
                assert!(route["local"].is_null(), "{route}");
                assert_eq!(
                    (&route["others"][0]["instance"], &route["others"][0]["condition"]),
                    (&owner.into(), &"alive".into())
                );
                assert_eq!(route["others"][0]["role"], "active", "{route}");
            }
        }
        let instances = rest.fetch("/v1/instances").expect_status(200).json();
        assert_eq!(cluster::members(&instances).filter(|member| member["condition"] == "alive").count(), 3);
        let tasks = rest.fetch("/v1/tasks").expect_status(200).json();
        let own = tasks["tasks"].as_array().unwrap().len();
        let others: usize =
            tasks["others"].as_array().unwrap().iter().map(|o| o["tasks"].as_array().unwrap().len()).sum();
        assert_eq!(own + others, 12, "two sub-topologies with six partitions each: {tasks}");
    }
}

/// What the command line says of a read.
fn explained(rest: &Rest, store: &str, (name, value): (&str, &str)) -> Value {
    let flag = format!("--{}", name.replace('_', "-"));
    let arguments = ["query", "route", STORES, store, "--server", rest.address(), &flag, value];
    let output = Command::new(instance::binary()).args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// It is what becomes of the read: who answers, or why nobody does.
fn check_explained<'a>(three: &Three, stores: impl Iterator<Item = &'a String>) {
    for (store, rest) in stores.flat_map(|store| three.rests.iter().map(move |rest| (store, rest))) {
        for option in [("consistency", "bounded"), ("consistency", "strong"), ("consistency", "any")] {
            let route = explained(rest, store, option);
            let answer = by_rest(rest, STORES, store, &format!("?{}={}", option.0, option.1)).expect_status(200);
            let served_by = answer.header("Holdfast-Served-By");
            assert_eq!((&route["answers"], &route["would_ask"]), (&served_by.into(), &served_by.into()), "{route}");
            assert!(route["error"].is_null(), "{route}");
            if served_by == rest.address() {
                assert_eq!(route["here"], "answers", "{route}");
            } else {
                assert_eq!(
                    (&route["here"], &route["others"][0]["why"]),
                    (&"no copy".into(), &"answers".into()),
                    "{route}"
                );
            }
        }
        // No copy is that young, unless a peer reported right behind a heartbeat.
        let refused = by_rest(rest, STORES, store, "?max_staleness=0").expect_status(503).json();
        let why = (refused["code"].clone(), refused["reason"].clone());
        wait::until_equal(format!("{store} to be too old everywhere"), LIMIT, &why, || {
            let route = explained(rest, store, ("max_staleness", "0"));
            (route["error"]["code"].clone(), route["error"]["reason"].clone())
        });
    }
}

/// A caller that wants to know the owner is sent there.
fn check_redirects(three: &Three, owners: &BTreeMap<String, BTreeSet<String>>) {
    let rest = &three.rests[0];
    for (store, owner) in owners {
        let owner = owner.first().unwrap();
        for path in [format!("/v1/stores/{STORES}/keys/{store}"), format!("/api/v1/stores/inventory/{store}")] {
            let path = format!("{path}?routing=redirect");
            let answer = rest.fetch_unfollowed(&path);
            if owner == rest.address() {
                answer.expect_status(200);
                continue;
            }
            let answer = answer.expect_status(307);
            assert_eq!(answer.header("Location"), format!("http://{owner}{path}"));
            assert_eq!(answer.header("Holdfast-Owner"), owner);
            assert!(!answer.header("Holdfast-Partition").is_empty());
            assert_eq!(answer.json()["reason"], "not_here");
        }
    }
}

fn peer_client(address: &str) -> PeerServiceClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap().timeout(LIMIT);
    PeerServiceClient::new(block_on(endpoint.connect()).unwrap())
}

fn ask_peer(address: &str, token: Option<&str>, key: &str) -> Result<pb::PeerOutcome, Status> {
    let options = ReadOptions { consistency: pb::Consistency::Any.into(), ..ReadOptions::default() };
    let key = key.as_bytes().to_vec().into();
    let mut request = Request::new(PeerGetRequest { store: STORES.to_owned(), key, options: Some(options) });
    if let Some(token) = token {
        request.metadata_mut().insert("holdfast-peer-token", token.parse().unwrap());
    }
    Ok(block_on(peer_client(address).get(request))?.into_inner().outcome.unwrap())
}

#[test]
fn a_forwarded_question_goes_no_further_and_needs_the_token() {
    let mut three = Three::start("peer-questions");
    let owners = three.owners();
    let index = three.rests.iter().position(|rest| owners.contains(rest.address())).unwrap();
    let (public, peer) = (three.instances[index].address(), three.instances[index].peer_address());
    let key = |own: bool| {
        let served_by =
            |key: &&String| by_rest(&three.rests[0], STORES, key, "").header("Holdfast-Served-By") == public;
        three.model.stores.keys().find(|key| served_by(key) == own).unwrap().clone()
    };
    let (own, others) = (key(true), key(false));

    let forwards = three.metric("holdfast_forwards_total", &[]);
    let outcome = ask_peer(&peer, Some(TOKEN), &own).unwrap();
    assert!(outcome.row.is_some() && outcome.served.is_some(), "{outcome:?}");
    let outcome = ask_peer(&peer, Some(TOKEN), "nobody").unwrap();
    assert!(outcome.row.is_none(), "{outcome:?}");
    // Not its key: it says so, rather than to ask the owner.
    let failure = ask_peer(&peer, Some(TOKEN), &others).unwrap().failure.unwrap();
    assert_eq!((failure.code.as_str(), failure.reason.as_str()), ("UNAVAILABLE", "no_owner"), "{failure:?}");
    assert_eq!(three.metric("holdfast_forwards_total", &[]), forwards, "nothing was forwarded on");

    for token in [None, Some("only-for-instanceS"), Some("")] {
        let refused = ask_peer(&peer, token, &own).unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{token:?}: {refused}");
    }
    // The public listener knows nothing of it.
    assert_eq!(ask_peer(&public, Some(TOKEN), &own).unwrap_err().code(), Code::Unimplemented);
    three.stop();
}

/// A scan, page by page.
struct Pages {
    options: &'static str,
    cursor: Option<String>,
    rows: Vec<(String, BTreeMap<String, i64>)>,
}

impl Pages {
    const LIMIT: usize = 25;

    fn new(options: &'static str) -> Self {
        Self { options, cursor: None, rows: Vec::new() }
    }

    /// Reads the next page, which may be refused while nobody has some of it; whether there are more.
    #[track_caller]
    fn next(&mut self, rest: &Rest) -> bool {
        let cursor =
            self.cursor.as_deref().map(rest::encode).map_or_else(String::new, |cursor| format!("&cursor={cursor}"));
        let path = format!("/v1/stores/{STORES}/keys?limit={}{}{cursor}", Self::LIMIT, self.options);
        let answer = wait::until(format!("a page at {}", rest.address()), LIMIT, || {
            let answer = rest.fetch(&path);
            assert!(matches!(answer.status, 200 | 503 | 504), "{path}: {answer:?}");
            if answer.status == 200 { Ok(answer.json()) } else { Err(answer.body) }
        });
        let found = answer["rows"].as_array().unwrap();
        assert!(found.len() == Self::LIMIT || answer["cursor"].is_null(), "a page of {}", found.len());
        self.rows.extend(found.iter().map(|row| (row["key"].as_str().unwrap().to_owned(), rest::stock(&row["value"]))));
        self.cursor = answer["cursor"].as_str().map(str::to_owned);
        self.cursor.is_some()
    }
}

#[test]
fn a_cursor_goes_on_wherever_one_asks_while_owners_come_and_go() {
    let mut three = Three::start("cursors");
    let expected = Tables::of_model(&three.model).stores;
    let mut scans = [Pages::new(""), Pages::new("&reverse=true")];
    for scan in &mut scans {
        assert!(scan.next(&three.rests[0]));
    }
    assert!(three.instances.remove(0).terminate().success());
    for scan in &mut scans {
        assert!(scan.next(&three.rests[1]));
    }
    three.instances.remove(0).kill();
    for scan in &mut scans {
        while scan.next(&three.rests[2]) {}
    }
    let [forward, reverse] = scans.map(|scan| scan.rows);
    let expected: Vec<_> = expected.into_iter().collect();
    assert_eq!(forward, expected);
    assert_eq!(reverse, expected.into_iter().rev().collect::<Vec<_>>());
    three.stop();
}

#[test]
fn a_drain_needs_the_token() {
    let kafka = Kafka::shared();
    let names = Names::fresh("drain");
    names.create_topics(kafka, 1);
    let mut instance = InstanceConfig::new(kafka, &names).set("peer_token", TOKEN).start_ready();
    let [public, peer] = [instance.address(), instance.peer_address()].map(|address| Rest::new(&address));
    let drain = |at: &Rest, token| at.post_with("/admin/drain", ("holdfast-peer-token", token));
    for token in ["", "only-for-instanceS", "only-for-instances2"] {
        let refused = drain(&peer, token).expect_status(401);
        assert_eq!(refused.json()["code"], "UNAUTHENTICATED", "{refused:?}");
    }
    peer.post("/admin/drain", &Value::Null).expect_status(401);
    drain(&public, TOKEN).expect_status(404);
    // What tells and changes nothing is for everybody: probes, collectors.
    peer.fetch("/healthz/ready").expect_status(200);
    peer.fetch("/metrics").expect_status(200);
    assert_eq!(drain(&peer, TOKEN).expect_status(202).json()["draining"], true);
    let (status, log) = instance.wait_for_exit();
    assert!(status.success(), "{log}");
}

#[test]
fn an_instance_with_another_token_says_so_and_is_not_evicted() {
    let kafka = Kafka::shared();
    let names = Names::fresh("tokens");
    names.create_topics(kafka, 2);
    let config = InstanceConfig::new(kafka, &names).set("num_stream_threads", "1");
    let mut first = config.clone().set("peer_token", TOKEN).start_ready();
    let mut second = config.set("peer_token", "quite-another-one").start();
    second.wait_listening();
    let (ours, theirs) = (first.rest(), second.address());
    holdfast_tests::wait::until_equal("the second to be a member that answers", LIMIT, &"alive".to_owned(), || {
        cluster::condition(&ours, &theirs)
    });
    holdfast_tests::wait::until_true("a line about it", LIMIT, || first.log().contains("cannot be asked"));
    assert_eq!(ours.metric("holdfast_evictions_total", &[]).unwrap_or(0.0), 0.0);
    assert_eq!(cluster::member_addresses(&ours).len(), 2);
    assert!(second.terminate().success());
    assert!(first.terminate().success());
}
