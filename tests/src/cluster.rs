//! Several instances of one application: started together, and what each tells of all of them.

use std::{collections::BTreeSet, time::Duration};

use serde_json::Value;

use crate::{
    instance::{Instance, InstanceConfig},
    rest::Rest,
    wait,
};

/// Joining, a rebalance or two, and restores of small state.
const LIMIT: Duration = Duration::from_secs(60);

/// Starts `count` instances, and waits until each is ready and has tasks.
#[track_caller]
pub fn start(config: &InstanceConfig, count: usize) -> Vec<Instance> {
    let mut instances: Vec<Instance> = (0..count).map(|_| config.clone().start()).collect();
    wait_spread(&mut instances);
    instances
}

/// Waits until the instances are the group, all agree on who has which task, all have one, and all are ready.
#[track_caller]
pub fn wait_spread(instances: &mut [Instance]) {
    let expected: BTreeSet<String> = instances.iter_mut().map(Instance::address).collect();
    let rests: Vec<Rest> = instances.iter_mut().map(Instance::rest).collect();
    wait::until(format!("{} instances to share the tasks", expected.len()), LIMIT, || {
        let views: Vec<Value> = rests.iter().map(described).collect::<Result<_, _>>()?;
        let seen: BTreeSet<String> = members(&views[0]).map(|member| text(member, "endpoint")).collect();
        if seen != expected {
            return Err(format!("{seen:?} are members"));
        }
        if let Some(idle) = members(&views[0]).find(|member| member["active"].as_array().is_none_or(Vec::is_empty)) {
            return Err(format!("{} has no task", idle["endpoint"]));
        }
        if views.iter().any(|view| view["generation"] != views[0]["generation"]) {
            return Err("they are in different generations".to_owned());
        }
        Ok(())
    });
    instances.iter_mut().for_each(Instance::wait_ready);
}

/// Waits until the instances are all that is in the group, and own all of `tasks` tasks.
#[track_caller]
pub fn wait_owned(rests: &[Rest], tasks: usize) {
    for rest in rests {
        wait::until(format!("{} to know all tasks' owners", rest.address()), LIMIT, || {
            let described = rest.fetch("/v1/instances").json();
            let members: Vec<_> = members(&described).collect();
            let owned: usize = members.iter().map(|member| member["active"].as_array().unwrap().len()).sum();
            if members.len() == rests.len() && owned == tasks { Ok(()) } else { Err(described.to_string()) }
        });
    }
}

/// Members that the instances have removed from the group because their processes were gone.
#[track_caller]
pub fn evictions(rests: &[Rest]) -> f64 {
    let removed = |rest: &Rest| rest.metric("holdfast_evictions_total", &[("outcome", "removed")]);
    rests.iter().filter_map(removed).sum()
}

/// `/v1/instances` as an instance that may not answer yet has it.
fn described(rest: &Rest) -> Result<Value, String> {
    let answer = rest.get("/v1/instances").map_err(|error| error.to_string())?;
    if answer.status == 200 { Ok(answer.json()) } else { Err(format!("{} {}", answer.status, answer.body)) }
}

/// The members that an answer of `/v1/instances` lists.
pub fn members(described: &Value) -> impl Iterator<Item = &Value> {
    described["instances"].as_array().into_iter().flatten()
}

/// A member of that text.
pub fn text(of: &Value, name: &str) -> String {
    of[name].as_str().unwrap_or_else(|| panic!("no text {name} in {of}")).to_owned()
}

/// The group's members as `rest` tells: their public addresses.
#[track_caller]
pub fn member_addresses(rest: &Rest) -> BTreeSet<String> {
    let described = rest.fetch("/v1/instances").expect_status(200).json();
    members(&described).map(|member| text(member, "endpoint")).collect()
}

/// How the instance behind `rest` finds the one at `address`; empty when it is no member.
#[track_caller]
pub fn condition(rest: &Rest, address: &str) -> String {
    let described = rest.fetch("/v1/instances").expect_status(200).json();
    let found = members(&described).find(|member| member["endpoint"] == address);
    found.map_or_else(String::new, |member| text(member, "condition"))
}
