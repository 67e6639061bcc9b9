//! Several state machines against a simulated coordinator, over thousands of random schedules.
//!
//! A schedule is fixed by its seed. `HOLDFAST_SEED=<seed>` runs that one alone and prints its story; a failure prints both.

#![allow(clippy::print_stderr, reason = "seeds and stories are for whoever runs the tests")]

mod broker;
mod chance;
mod process;
mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    time::Duration,
};

use holdfast_types::{SubtopologySpec, TaskId};

use self::{
    chance::Chance,
    process::Process,
    world::{Climate, World},
};

/// Runs schedules with the seeds from `first` on, or the one that is asked for.
fn schedules(name: &str, first: u64, count: u64, schedule: impl Fn(&mut World)) {
    let asked = env::var("HOLDFAST_SEED").ok().map(|seed| seed.parse().unwrap());
    let count = if env::var_os("HOLDFAST_SOAK").is_some() { count * 25 } else { count };
    let seeds = asked.map_or(first..first + count, |seed| seed..seed + 1);
    let (mut steps, mut generations) = (0, 0);
    for seed in seeds.clone() {
        let mut world = World::new(seed, climate(seed));
        let outcome = catch_unwind(AssertUnwindSafe(|| schedule(&mut world)));
        steps += world.steps;
        generations += world.broker.generation;
        if outcome.is_err() || asked.is_some() {
            eprintln!("{}", world.story.join("\n"));
            eprintln!("{name}: {:?}\n{name}: HOLDFAST_SEED={seed}", world.climate);
        }
        if let Err(panic) = outcome {
            resume_unwind(panic);
        }
    }
    eprintln!("{name}: {} schedules, {steps} steps, {generations} generations", seeds.count());
}

fn climate(seed: u64) -> Climate {
    let mut chance = Chance::new(seed ^ 0x5eed);
    Climate {
        loss: [0, 1, 5, 15][chance.between(0, 4) as usize],
        latency: [5, 50, 400, 1500][chance.between(0, 4) as usize],
        standbys: chance.between(0, 3) as usize,
        follows: chance.percent(75),
    }
}

impl World {
    fn up(&self) -> Vec<usize> {
        (0..self.processes.len()).filter(|process| self.processes[*process].is_up()).collect()
    }

    fn seconds(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.chance.between(from * 1000, to * 1000))
    }

    fn some(&mut self, of: &[usize]) -> Option<usize> {
        let at = self.chance.between(0, of.len() as u64);
        of.get(usize::try_from(at).unwrap()).copied()
    }

    /// Starts a group of a few in a healthy network, and returns how many they are when it has settled.
    fn start_healthy(&mut self) -> usize {
        (self.climate.loss, self.climate.latency) = (0, self.climate.latency.min(50));
        let size = self.chance.between(2, 5) as usize;
        (0..size).for_each(|process| self.start(process));
        self.converge();
        size
    }

    /// Something happens to somebody.
    fn mishap(&mut self) {
        let up = self.up();
        let down: Vec<usize> = (0..self.processes.len()).filter(|process| !up.contains(process)).collect();
        let Some(process) = self.some(&up) else { return self.start(down[0]) };
        match self.chance.between(0, 12) {
            0 => self.kill(process),
            1 => {
                self.kill(process);
                self.start(process);
            }
            2 => {
                let time = self.seconds(0, 14);
                self.pause(process, time);
            }
            3 => {
                let drain = self.chance.percent(70);
                self.stop(process, drain);
            }
            4 => {
                let time = self.seconds(0, 4);
                self.move_coordinator(time);
            }
            5 => self.rejoin(process),
            6 => self.garble(process),
            7 => {
                let time = self.seconds(0, 40);
                self.hold(process, time);
            }
            _ => match self.some(&down) {
                Some(process) => self.start(process),
                None if self.processes.len() < 5 => self.start(self.processes.len()),
                None => self.rejoin(process),
            },
        }
    }

    /// The network is well again, nobody stands still, whoever wanted to leave has left.
    fn heal(&mut self) {
        self.tell(|| "all is well again".to_owned());
        (self.climate.loss, self.climate.latency) = (0, 10);
        for process in &mut self.processes {
            process.paused_until = None;
            process.garbled = false;
            process.come_back(self.now);
        }
        let drained = self.story.iter().any(|line| line.contains("drains first: true"));
        // Whoever drained comes back to its slots; one that was alone leaves only then.
        for _ in 0..2 {
            self.run(Duration::from_secs(12));
            for process in 0..self.processes.len() {
                if !self.processes[process].is_up() && (drained || self.up().is_empty()) {
                    self.start(process);
                }
            }
        }
    }

    /// Runs until nothing changes any more.
    fn converge(&mut self) {
        let mut quiet = 0;
        for _ in 0..400 {
            let generation = self.broker.generation;
            self.run(Duration::from_secs(1));
            quiet = if self.broker.generation == generation && self.is_settled() { quiet + 1 } else { 0 };
            // Longer than a probing rebalance takes to come.
            if quiet >= 25 {
                return;
            }
        }
        panic!("not settled in 400 s: generation {}, members {:?}", self.broker.generation, self.broker.processes());
    }

    fn is_settled(&self) -> bool {
        let stable = |process: &usize| self.processes[*process].is_stable_in(self.broker.generation);
        let levels = |process: &Process| process.level_at.is_some_and(|at| at >= self.now);
        self.broker.is_stable()
            && self.broker.processes() == self.up()
            && self.up().iter().all(stable)
            && !self.processes.iter().any(levels)
    }

    /// Every task has one owner, the load is fair, and there are the standbys that there should be.
    fn assert_right(&self) {
        let up = self.up();
        let mut owners: BTreeMap<TaskId, Vec<usize>> = BTreeMap::new();
        for process in &up {
            for task in &self.processes[*process].running {
                owners.entry(*task).or_default().push(*process);
            }
        }
        let tasks: Vec<TaskId> = self.specs.iter().flat_map(|spec| spec.tasks()).map(|task| task.id).collect();
        for task in &tasks {
            assert_eq!(owners.get(task).map(Vec::len), Some(1), "owners of {task}: {:?}", owners.get(task));
        }
        for subtopologies in [0..1, 0..2_u32] {
            let of = |process: &usize| {
                let running = &self.processes[*process].running;
                running.iter().filter(|task| subtopologies.contains(&task.subtopology)).count()
            };
            let loads: Vec<usize> = up.iter().map(of).collect();
            assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1, "not fair: {loads:?}");
        }
        let wanted = if self.climate.follows { self.climate.standbys.min(up.len() - 1) } else { 0 };
        for task in tasks.iter().filter(|task| task.subtopology == 0) {
            let follow: Vec<_> =
                up.iter().filter(|process| self.processes[**process].followed.contains(task)).collect();
            assert_eq!(follow.len(), wanted, "{task} is followed by {follow:?}");
        }
    }

    fn running(&self) -> Vec<BTreeSet<TaskId>> {
        self.processes.iter().map(|process| process.running.clone()).collect()
    }
}

/// Anything happens, and in the end all is right.
#[test]
fn any_schedule_ends_well() {
    schedules("any_schedule_ends_well", 1, 800, |world| {
        for process in 0..world.chance.between(1, 4) as usize {
            world.start(process);
        }
        let mishaps = world.chance.between(2, 12);
        for _ in 0..mishaps {
            let pause = world.seconds(0, 6);
            world.run(pause);
            world.mishap();
        }
        world.heal();
        world.converge();
        world.assert_right();
    });
}

/// In a healthy network nothing moves that need not.
#[test]
fn a_healthy_group_moves_no_more_than_it_must() {
    schedules("a_healthy_group_moves_no_more_than_it_must", 1_000_000, 300, |world| {
        let size = world.start_healthy();
        world.assert_right();

        let before = world.running();
        let process = world.chance.between(0, size as u64) as usize;
        match world.chance.between(0, 4) {
            // Somebody asks for rebalances, and nothing moves.
            0 => {
                let generation = world.broker.generation;
                world.rejoin(process);
                world.converge();
                assert!(world.broker.generation > generation, "nobody noticed");
                assert_eq!(world.running(), before);
                assert!(
                    world
                        .processes
                        .iter()
                        .all(|process| process.revoked.len() + process.running.len() == process.started.len())
                );
            }
            // One more takes its share, and nothing else moves.
            1 => {
                let revoked =
                    |world: &World| world.processes.iter().map(|process| process.revoked.len()).sum::<usize>();
                let revoked_before = revoked(world);
                world.start(size);
                world.converge();
                let (stateful, all): (usize, usize) = (6, 9);
                let most = stateful.div_ceil(size + 1) + (all - stateful).div_ceil(size + 1) + 1;
                let moved = revoked(world) - revoked_before;
                assert!(moved <= most, "{moved} tasks moved to one more of {size}");
            }
            // One drains and is back within the time: nobody else built a copy of what it had.
            2 => {
                let followed = |world: &World| -> Vec<BTreeSet<TaskId>> {
                    let others = world.processes.iter().enumerate().filter(|(other, _)| *other != process);
                    let copies = |other: &Process| &(&other.followed | &other.running) | &other.copies(&world.ends);
                    others.map(|(_, other)| copies(other)).collect()
                };
                let had = followed(world);
                world.stop(process, true);
                world.run(Duration::from_secs(30));
                assert!(!world.processes[process].is_up(), "it does not get rid of its tasks");
                if world.climate.follows && world.climate.standbys > 0 {
                    for (now, had) in followed(world).iter().zip(&had) {
                        let built: Vec<_> = now.difference(had).filter(|task| task.subtopology == 0).collect();
                        assert!(built.is_empty(), "{built:?} were built anew");
                    }
                }
                world.start(process);
                world.converge();
            }
            // One is killed, and its tasks go to others at once; theirs stay.
            _ => {
                let started: Vec<usize> = world.processes.iter().map(|process| process.started.len()).collect();
                world.kill(process);
                world.converge();
                let lost = before[process].len();
                let moved: usize = world
                    .processes
                    .iter()
                    .zip(started)
                    .map(|(process, before)| process.started.len() - before.min(process.started.len()))
                    .sum();
                // Each may move on once, from the standby that took it over to where it is fairer.
                assert!(moved <= 2 * lost, "{moved} tasks moved when {lost} lost their owner");
            }
        }
        world.assert_right();
    });
}

/// A coordinator that moves, also in the middle of a rebalance, stops no task.
#[test]
fn a_coordinator_that_moves_costs_no_task() {
    schedules("a_coordinator_that_moves_costs_no_task", 2_000_000, 250, |world| {
        let size = world.start_healthy();
        let (before, told) = (world.running(), world.story.len());
        for _ in 0..world.chance.between(1, 5) {
            if world.chance.percent(70) {
                let process = world.chance.between(0, size as u64) as usize;
                world.rejoin(process);
            }
            let soon = Duration::from_millis(world.chance.between(0, 120));
            world.run(soon);
            let away = world.seconds(0, 2);
            world.move_coordinator(away);
            let pause = away + world.seconds(3, 8);
            world.run(pause);
        }
        world.converge();
        assert_eq!(world.running(), before);
        let lost: Vec<_> = world.story[told..].iter().filter(|line| line.contains("it is lost")).collect();
        assert!(lost.is_empty(), "{lost:?}");
        world.assert_right();
    });
}

/// User code that does not come back, for longer than it is waited for, while anything else happens.
#[test]
fn user_code_that_holds_tasks_keeps_them_from_nobody() {
    schedules("user_code_that_holds_tasks_keeps_them_from_nobody", 4_000_000, 100, |world| {
        if world.chance.percent(50) {
            let size = world.start_healthy();
            let holder = world.chance.between(0, size as u64) as usize;
            world.hold(holder, Duration::from_secs(100));
            // Whoever comes gets a share, mostly of what is held, too.
            (size..5).for_each(|process| world.start(process));
            world.run(Duration::from_secs(60));
            let held = &world.processes[holder];
            assert!(held.given_up.is_none() || held.running.is_empty(), "{:?} after it gave up", held.running);
            for task in world.specs.iter().flat_map(SubtopologySpec::tasks) {
                let owners = world.processes.iter().filter(|process| process.running.contains(&task.id)).count();
                assert_eq!(owners, 1, "{} while it is held", task.id);
            }
        } else {
            (0..world.chance.between(2, 5) as usize).for_each(|process| world.start(process));
            let first = world.seconds(2, 12);
            world.run(first);
            for _ in 0..world.chance.between(1, 4) {
                let up = world.up();
                if let Some(process) = world.some(&up) {
                    let time = world.seconds(5, 60);
                    world.hold(process, time);
                }
                for _ in 0..world.chance.between(1, 4) {
                    world.mishap();
                    let pause = world.seconds(0, 15);
                    world.run(pause);
                }
            }
        }
        world.heal();
        world.converge();
        world.assert_right();
    });
}

/// While a topology with other ids is rolled out, nothing is counted by an old and a new task at once, and all of the new one
/// runs in the end.
#[test]
fn a_topology_changes_while_it_rolls() {
    schedules("a_topology_changes_while_it_rolls", 3_000_000, 150, |world| {
        let size = world.chance.between(2, 5) as usize;
        (0..size).for_each(|process| world.start(process));
        let first = world.seconds(5, 20);
        world.run(first);

        let [stock, plain] = world.specs.as_slice() else { panic!("two sub-topologies") };
        let renumbered = |id: u32, spec: &SubtopologySpec| SubtopologySpec { id, ..spec.clone() };
        let added = SubtopologySpec {
            fingerprint: "added".to_owned(),
            source_topics: vec!["added".into()],
            stores: Vec::new(),
            ..stock.clone()
        };
        world.specs = vec![added, renumbered(1, stock), renumbered(2, plain)];
        for process in 0..size {
            if world.chance.percent(50) {
                world.kill(process);
            } else if world.processes[process].is_up() {
                world.stop(process, false);
            }
            let down = world.seconds(0, 3);
            world.run(down);
            world.start(process);
            let pause = world.seconds(0, 15);
            world.run(pause);
        }
        world.heal();
        world.converge();
        let running = world.running();
        for task in world.specs.iter().flat_map(SubtopologySpec::tasks) {
            assert_eq!(running.iter().filter(|running| running.contains(&task.id)).count(), 1, "{}", task.id);
        }
    });
}
