//! Scenarios of one GPU: who is asked back, killed, barred, forgotten and billed, at simulated times.

#![allow(clippy::unwrap_used)]

use super::barring::BAR_FIRST;
use super::device_losses::LOSSES_WITHIN;
use super::{Action, Health, Timing, Turns};
use gannet_base::names::TenantName;
use gannet_gpu_protocol::lease::{ArbiterMessage, HolderMessage};
use proptest::prelude::*;
use std::time::{Duration, Instant};

pub(super) const TIMING: Timing = Timing {
    quantum: Duration::from_millis(10),
    grace: Duration::from_millis(100),
    cordon: Duration::from_millis(500),
};

pub(super) fn tenant(index: u64) -> TenantName {
    TenantName::new(&format!("t{index}")).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn bills_are_never_more_than_the_time_held(
        holds in prop::collection::vec((0u64..50, 0u64..200), 1..20),
    ) {
        let mut now = Instant::now();
        let mut turns = Turns::new(TIMING, now);
        turns.join(1, &tenant(1), 1);
        let (mut held, mut billed) = (Duration::ZERO, Duration::ZERO);
        for (epoch, (ms, claimed)) in (1..).zip(holds) {
            turns.on_message(1, HolderMessage::Want(epoch - 1), now);
            now += Duration::from_millis(ms);
            held += Duration::from_millis(ms);
            turns.on_message(1, HolderMessage::Release { epoch, wants: false }, now);
            now += Duration::from_millis(7);
            billed += turns.bill(1, Duration::from_millis(claimed), now);
            prop_assert!(billed <= held);
        }
    }
}

#[test]
fn a_silent_holder_is_asked_then_killed_and_nobody_is_granted_before_the_probe() {
    let start = Instant::now();
    let mut turns = Turns::new(TIMING, start);
    turns.join(1, &tenant(1), 1);
    turns.join(2, &tenant(2), 1);
    let granted = |epoch, contended| ArbiterMessage::Granted { epoch, contended };
    assert_eq!(turns.on_message(1, HolderMessage::Want(0), start), [Action::Tell(1, granted(1, false))]);
    assert_eq!(turns.deadline(), None, "alone it keeps the gpu, and no message is sent");
    let later = start + Duration::from_secs(1);
    assert_eq!(
        turns.on_message(2, HolderMessage::Want(0), later),
        [Action::Tell(1, ArbiterMessage::Revoked { epoch: 1 })],
        "its quantum is over"
    );
    let over = later + TIMING.grace;
    assert_eq!(turns.deadline(), Some(over));
    assert_eq!(turns.tick(over), [Action::Kill(1)]);
    assert_eq!(turns.on_message(1, HolderMessage::Release { epoch: 1, wants: false }, over), [], "too late");
    assert_eq!(turns.on_exit(1, over), [Action::Probe]);
    assert_eq!(turns.health(over), Health::Probing);
    assert_eq!(turns.probed(false, over), []);
    assert_eq!(turns.health(over), Health::Cordoned);
    assert_eq!(turns.tick(over + TIMING.cordon), [Action::Probe]);
    assert_eq!(turns.probed(true, over + TIMING.cordon), [Action::Tell(2, granted(2, false))]);
}

#[test]
fn a_tenant_whose_processes_die_with_the_gpu_again_and_again_is_barred_for_a_while() {
    let mut now = Instant::now();
    let mut turns = Turns::new(TIMING, now);
    for id in 1..=3 {
        turns.join(id, &tenant(1), 1);
        assert_eq!(turns.on_message(id, HolderMessage::Want(0), now).len(), 1, "the first three are granted at once");
        assert_eq!(turns.on_exit(id, now), [Action::Probe]);
        turns.probed(true, now);
    }
    turns.join(4, &tenant(1), 1);
    turns.join(5, &tenant(2), 1);
    assert_eq!(turns.on_message(4, HolderMessage::Want(0), now), []);
    assert_eq!(turns.deadline(), Some(now + BAR_FIRST));
    assert_eq!(turns.on_message(5, HolderMessage::Want(0), now).len(), 1, "others are not");
    let epoch = turns.gpu.epoch();
    turns.on_message(5, HolderMessage::Release { epoch, wants: false }, now);
    now += BAR_FIRST;
    assert_eq!(turns.tick(now).len(), 1);
}

#[test]
fn devices_lost_by_two_tenants_are_the_gpus_fault_and_by_one_are_not() {
    let now = Instant::now();
    let mut turns = Turns::new(TIMING, now);
    let join = |turns: &mut Turns, id, owner| {
        turns.join(id, &tenant(owner), 1);
        turns.on_message(id, HolderMessage::Want(0), now);
        let epoch = turns.gpu.epoch();
        turns.on_message(id, HolderMessage::Release { epoch, wants: false }, now);
    };
    for (id, owner) in [(1, 1), (2, 1), (3, 2)] {
        join(&mut turns, id, owner);
    }
    for id in [1, 2] {
        turns.on_device_lost(id, now);
        assert_eq!(turns.on_exit(id, now), []);
    }
    turns.on_device_lost(3, now + LOSSES_WITHIN / 2);
    assert_eq!(turns.on_exit(3, now + LOSSES_WITHIN / 2), [Action::Probe]);
    turns.probed(true, now + LOSSES_WITHIN / 2);
    join(&mut turns, 4, 4);
    turns.on_device_lost(4, now + LOSSES_WITHIN);
    assert_eq!(turns.on_exit(4, now + LOSSES_WITHIN), [], "what was before the probe does not count");
}

#[test]
fn tenants_that_left_are_forgotten_unless_they_owe() {
    let mut now = Instant::now();
    let mut turns = Turns::new(TIMING, now);
    turns.join(1, &tenant(1), 1);
    turns.join(2, &tenant(2), 1);
    turns.on_message(1, HolderMessage::Want(0), now);
    turns.on_message(2, HolderMessage::Want(0), now);
    now += Duration::from_millis(10);
    turns.on_message(1, HolderMessage::Release { epoch: 1, wants: false }, now);
    turns.on_exit(1, now);
    turns.on_message(2, HolderMessage::Release { epoch: 2, wants: false }, now);
    assert_eq!(turns.shares.len(), 2, "the first has used ten milliseconds more");
    turns.join(1, &tenant(1), 1);
    turns.on_message(1, HolderMessage::Want(0), now);
    turns.on_message(1, HolderMessage::Release { epoch: 3, wants: false }, now);
    turns.on_exit(1, now);
    turns.on_exit(2, now);
    turns.tick(now);
    assert_eq!(turns.shares.len(), 0);
}
