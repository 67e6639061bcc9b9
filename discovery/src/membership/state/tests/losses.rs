//! Memberships that end, by silence, by surrender or for what cannot be read, and what follows.

use super::*;

#[test]
fn silence_for_a_session_is_a_loss_and_the_member_joins_again() {
    let mut harness = Harness::stable();
    harness.pass(HEARTBEAT);
    harness.take_heartbeat();
    let confirmed_at = harness.machine.confirmed_at().unwrap();
    harness.now = confirmed_at + SESSION - Duration::from_millis(1);
    harness.send(Event::Tick);
    assert_eq!(harness.told, []);
    assert_eq!(harness.machine.next_tick(), Some(confirmed_at + SESSION));
    harness.pass(Duration::from_millis(1));
    assert!(harness.told.iter().any(is_lost));
    assert_eq!(harness.generation(), None);
    harness.lead(4);
    assert_eq!(harness.generation(), Some(4));
}

/// The coordinator would take a commit of what was processed before, were it told the generation of now.
#[test]
fn each_loss_ends_a_tenure_and_nothing_else_does() {
    let tenure = |harness: &Harness| harness.machine.metadata().map(|metadata| metadata.tenure);
    let mut harness = Harness::stable();
    harness.send(Event::Rejoin { reason: "test".to_owned() });
    assert_eq!(tenure(&harness), Some(0), "while the group is joined once more");
    harness.lead(2);
    assert_eq!(tenure(&harness), Some(0), "in the next generation");
    harness.pass(SESSION);
    assert_eq!(tenure(&harness), None);
    harness.lead(3);
    assert_eq!(tenure(&harness), Some(1), "after a silence");
    harness.send(Event::Rejoin { reason: "test".to_owned() });
    harness.pass(SESSION);
    // The answer to a join from before the loss: the id is the same, and so are the claims.
    harness.lead(4);
    assert_eq!(tenure(&harness), Some(2), "while a join was out");
    harness.lead(5);
    harness.send(Event::Rejoin { reason: "test".to_owned() });
    harness.refuse_join(25);
    harness.lead(6);
    assert_eq!(tenure(&harness), Some(3), "after a removal");
    assert_eq!(
        harness.told.iter().filter_map(assigned).map(|assignment| assignment.tenure).collect::<Vec<_>>(),
        [0, 1, 2, 2, 3]
    );
}

/// Somebody here does not let go of a task: the group need not wait for that, and nothing of it counts any more.
#[test]
fn what_is_surrendered_is_claimed_no_more() {
    let mut harness = Harness::stable();
    let tasks = harness.machine.ownership.claimed();
    assert!(!tasks.is_empty());
    harness.send(Event::Surrendered { tenure: 0, reason: "test".to_owned() });
    assert!(harness.told.iter().any(is_lost));
    assert_eq!((harness.generation(), harness.machine.ownership.claimed()), (None, vec![]));
    harness.lead(2);
    assert_eq!(harness.machine.metadata().map(|metadata| metadata.tenure), Some(1));
    assert_eq!(harness.machine.ownership.claimed(), [], "something here still holds them");
    harness.send(Event::Resumed);
    harness.lead(3);
    // What is said of the tenure before releases nothing of this one, though its number may be the same.
    harness.send(Event::Acknowledged { tenure: 0, generation: 3, kept: Vec::new() });
    assert_eq!(harness.machine.ownership.claimed(), tasks);
}

/// Nothing here starts what an earlier join brings, and who holds the former tasks would hold these, too.
#[test]
fn what_comes_after_a_surrender_is_not_taken() {
    let mut harness = Harness::stable();
    harness.send(Event::Rejoin { reason: "test".to_owned() });
    harness.send(Event::Surrendered { tenure: 0, reason: "test".to_owned() });
    harness.lead(2);
    let taken: Vec<_> = harness.told.iter().filter_map(assigned).map(|assignment| assignment.active.len()).collect();
    assert_eq!((taken, harness.machine.ownership.claimed()), (vec![0], vec![]));
    harness.lead(3);
    assert!(harness.pending.iter().all(|action| !matches!(action, Action::Join { .. })), "and it is no loop");
}

/// Whatever rebalance went on when it was let go of: it may have begun before.
#[test]
fn what_was_surrendered_is_asked_for_again_after_a_while() {
    let mut harness = Harness::stable();
    harness.send(Event::Surrendered { tenure: 0, reason: "test".to_owned() });
    // Another one has the tasks meanwhile.
    harness.machine.members = 2;
    harness.send(Event::Resumed);
    let (ticket, member_id, subscription) = harness.take_join();
    let assignments =
        leader::assign(vec![(Arc::clone(&member_id), subscription)], &AssignorSettings::default()).unwrap();
    harness.send(Event::Joined { ticket, answer: Ok(Joined { generation: 2, member_id, lead: None }) });
    let (ticket, ..) = harness.take_sync();
    harness.send(Event::Synced { ticket, answer: Ok(assignments.bytes[0].1.clone()) });
    assert_eq!(harness.machine.ownership.claimed(), []);
    assert_eq!(harness.machine.probe_due_at(), Some(harness.now + LEVEL_AFTER));
}

/// The coordinator ended the membership meanwhile: what came since waits behind the same user code.
#[test]
fn a_surrender_that_a_loss_overtook_counts_for_the_next_membership() {
    let mut harness = Harness::stable();
    harness.pass(SESSION);
    harness.lead(2);
    assert!(!harness.machine.ownership.claimed().is_empty());
    harness.send(Event::Surrendered { tenure: 0, reason: "test".to_owned() });
    assert_eq!((harness.generation(), harness.machine.ownership.claimed()), (None, vec![]));
    harness.lead(3);
    assert_eq!(harness.machine.ownership.claimed(), []);
}

/// What was lost is not claimed any more, but the join that is out said so: tasks would be withheld for nobody.
#[test]
fn a_loss_while_a_join_is_out_is_followed_by_another_join() {
    let mut harness = Harness::stable();
    harness.send(Event::Rejoin { reason: "test".to_owned() });
    harness.pass(SESSION + HEARTBEAT);
    assert!(harness.told.iter().any(is_lost));
    let first = harness.lead(2);
    let second = harness.lead(3);
    assert_ne!(first, second);
    assert!(harness.pending.iter().all(|action| !matches!(action, Action::Join { .. })), "and it is no loop");
}

/// Somebody else may have in the new generation what was this member's: it must not go on, nor keep asking.
#[test]
fn a_member_that_cannot_read_its_assignment_drops_all_and_stays_away_for_a_while() {
    let newer = protocol::encode_assignment([], vec![99]).unwrap();
    for (bytes, said) in [(newer, "got 99"), (Bytes::from_static(&[7]), "more bytes"), (Bytes::new(), "could not read")]
    {
        let mut harness = Harness::stable();
        harness.send(Event::Rejoin { reason: "test".to_owned() });
        for round in 0..3 {
            let (ticket, ..) = harness.take_join();
            let member_id: Arc<str> = format!("m-{round}").into();
            let joined = Joined { generation: 2 + round, member_id: Arc::clone(&member_id), lead: None };
            harness.send(Event::Joined { ticket, answer: Ok(joined) });
            let (ticket, ..) = harness.take_sync();
            harness.send(Event::Synced { ticket, answer: Ok(bytes.clone()) });
            let left = harness.take(|action| match action {
                Action::Leave { member_id } => Some(Arc::clone(member_id)),
                _ => None,
            });
            assert_eq!(left, member_id);
            assert_eq!((harness.generation(), harness.machine.ownership.claimed()), (None, vec![]));
            assert_eq!(harness.machine.next_tick(), Some(harness.now + syncing::STEPS_OUT_FOR));
            harness.pass(syncing::STEPS_OUT_FOR);
        }
        // Once, not with each attempt.
        let [GroupEvent::Lost { .. }, GroupEvent::Waiting { reason }] = harness.told.as_slice() else {
            panic!("{:?}", harness.told)
        };
        assert!(reason.contains(said), "{reason}");
        harness.told.clear();
        harness.lead(9);
        assert_eq!(harness.told.first(), Some(&GroupEvent::Recovered));
        assert_eq!(harness.machine.metadata().map(|metadata| (metadata.generation, metadata.tenure)), Some((9, 3)));
    }
}
