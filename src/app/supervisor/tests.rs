//! Owns the table tests of the supervisor: the actions for each event. Must not know how an action is performed.

use super::*;

const TERM: i32 = libc::SIGTERM;
const HUP: i32 = libc::SIGHUP;
const GRACE: Duration = Duration::from_secs(8);

fn policy() -> StopPolicy {
    StopPolicy { signal_map: SignalMap::default(), exit_map: ExitMap::default(), drain: Duration::ZERO, grace: GRACE }
}

fn ended(code: u8, leftovers: bool) -> Event {
    Event::AppEnded { end: End::Code(code), leftovers, again: false, never_listened: None }
}

/// Plays events at their seconds, and compares the actions of each, and the deadline after the last.
fn play(policy: StopPolicy, script: &[(u64, Event, &[Action])], deadline: Option<u64>) {
    play_in(Surroundings { pid1: true, has_terminal: false }, policy, script, deadline);
}

fn play_in(surroundings: Surroundings, policy: StopPolicy, script: &[(u64, Event, &[Action])], deadline: Option<u64>) {
    let start = Instant::now();
    let mut supervisor = Supervisor::new(policy, surroundings);
    for (second, event, expected) in script {
        let now = start + Duration::from_secs(*second);
        assert_eq!(&supervisor.on(now, *event), expected, "{event:?} at {second} s of {script:?}");
    }
    assert_eq!(supervisor.deadline(), deadline.map(|second| start + Duration::from_secs(second)), "{script:?}");
}

#[test]
fn reberth_exits_with_an_app_that_leaves_nothing_behind() {
    play(policy(), &[(5, ended(3, false), &[Action::Finish(Code(3))])], None);
    let killed = Event::AppEnded { end: End::Signal(9), leftovers: false, again: false, never_listened: None };
    play(policy(), &[(5, killed, &[Action::Finish(Code(137))])], None);
    let mapped = StopPolicy { exit_map: ExitMap(vec![(143, 0)]), ..policy() };
    let by_term = Event::AppEnded { end: End::Signal(TERM), leftovers: false, again: false, never_listened: None };
    play(mapped, &[(5, by_term, &[Action::Finish(Code(0))])], None);
}

#[test]
fn the_first_request_to_stop_starts_the_one_grace() {
    play(
        policy(),
        &[
            (0, Event::Signal(HUP), &[Action::Forward(HUP)]),
            (1, Event::Signal(TERM), &[Action::Publish(Phase::Draining), Action::Forward(TERM)]),
            (4, Event::Signal(TERM), &[Action::Forward(TERM)]),
            (5, Event::Signal(HUP), &[Action::Forward(HUP)]),
        ],
        Some(9),
    );
    play(
        policy(),
        &[
            (1, Event::Signal(TERM), &[Action::Publish(Phase::Draining), Action::Forward(TERM)]),
            (3, ended(0, true), &[Action::Publish(Phase::Exited), Action::SignalTree(TERM)]),
        ],
        Some(9),
    );
}

#[test]
fn the_grace_ends_in_kill_for_the_app_and_then_for_its_leftovers() {
    let killed = Event::AppEnded { end: End::Signal(9), leftovers: true, again: false, never_listened: None };
    play(
        policy(),
        &[
            (1, Event::Signal(TERM), &[Action::Publish(Phase::Draining), Action::Forward(TERM)]),
            (9, Event::Due, &[Action::KillApp]),
            (9, killed, &[Action::Publish(Phase::Exited), Action::SignalTree(TERM), Action::SignalTree(libc::SIGKILL)]),
            (9, Event::ChildGone, &[Action::SignalTree(libc::SIGKILL)]),
            (10, Event::LastChildGone, &[Action::Finish(Code(137))]),
        ],
        Some(11),
    );
}

#[test]
fn leftovers_of_an_app_that_ended_by_itself_get_the_whole_grace() {
    play(
        policy(),
        &[
            (2, ended(7, true), &[Action::Publish(Phase::Exited), Action::SignalTree(TERM)]),
            (3, Event::Signal(TERM), &[Action::SignalTree(TERM)]),
            (3, Event::Signal(HUP), &[]),
            (4, Event::ChildGone, &[]),
            (10, Event::Due, &[Action::SignalTree(libc::SIGKILL)]),
            (12, Event::Due, &[Action::Finish(Code(7))]),
        ],
        Some(12),
    );
}

#[test]
fn a_grace_of_zero_never_kills() {
    let patient = StopPolicy { grace: Duration::ZERO, ..policy() };
    play(
        patient.clone(),
        &[(1, Event::Signal(TERM), &[Action::Publish(Phase::Draining), Action::Forward(TERM)])],
        None,
    );
    play(
        patient,
        &[
            (1, ended(1, true), &[Action::Publish(Phase::Exited), Action::SignalTree(TERM)]),
            (99, Event::LastChildGone, &[Action::Finish(Code(1))]),
        ],
        None,
    );
}

#[test]
fn a_drain_holds_the_signal_back_until_its_end_or_the_second_one() {
    let draining = StopPolicy { drain: Duration::from_secs(20), ..policy() };
    let begin = (1, Event::Signal(TERM), [Action::Publish(Phase::Draining)]);
    play(draining.clone(), &[(begin.0, begin.1, &begin.2)], Some(21));
    play(draining.clone(), &[(begin.0, begin.1, &begin.2), (2, Event::Signal(HUP), &[Action::Forward(HUP)])], Some(21));
    play(draining.clone(), &[(begin.0, begin.1, &begin.2), (21, Event::Due, &[Action::Forward(TERM)])], Some(29));
    play(
        draining.clone(),
        &[(begin.0, begin.1, &begin.2), (3, Event::Signal(TERM), &[Action::Forward(TERM)])],
        Some(11),
    );
    let int = libc::SIGINT;
    let both = [Action::Forward(TERM), Action::Forward(int)];
    play(draining.clone(), &[(begin.0, begin.1, &begin.2), (3, Event::Signal(int), &both)], Some(11));
    play(draining, &[(begin.0, begin.1, &begin.2), (4, ended(0, false), &[Action::Finish(Code(0))])], Some(21));
}

#[test]
fn the_signal_map_rewrites_and_drops() {
    let mapped = StopPolicy {
        signal_map: SignalMap(vec![(TERM, Some(libc::SIGQUIT)), (HUP, None), (libc::SIGINT, Some(libc::SIGUSR1))]),
        ..policy()
    };
    play(
        mapped.clone(),
        &[
            (0, Event::Signal(HUP), &[]),
            (1, Event::Signal(TERM), &[Action::Publish(Phase::Draining), Action::Forward(libc::SIGQUIT)]),
        ],
        Some(9),
    );
    play(
        mapped,
        &[(1, Event::Signal(libc::SIGINT), &[Action::Publish(Phase::Draining), Action::Forward(libc::SIGUSR1)])],
        Some(9),
    );
}

#[test]
fn only_pid_1_never_suspends_itself() {
    let tstp = libc::SIGTSTP;
    play(policy(), &[(0, Event::Signal(tstp), &[Action::Forward(tstp)])], None);
    let below = Surroundings { pid1: false, has_terminal: false };
    play_in(below, policy(), &[(0, Event::Signal(tstp), &[Action::Forward(tstp), Action::Suspend])], None);
    play_in(below, policy(), &[(0, suspended(tstp, false), &[])], None);
    let with_terminal = Surroundings { has_terminal: true, ..below };
    play_in(with_terminal, policy(), &[(0, suspended(tstp, false), &[Action::Suspend])], None);
    play_in(with_terminal, policy(), &[(0, suspended(libc::SIGSTOP, false), &[])], None);
    play_in(with_terminal, policy(), &[(0, suspended(libc::SIGSTOP, true), &[Action::Suspend])], None);
}

fn suspended(by: i32, in_foreground: bool) -> Event {
    Event::AppSuspended { by, in_foreground }
}

#[test]
fn pid_1_continues_what_its_terminal_suspended_and_nothing_else() {
    let (tstp, cont) = (libc::SIGTSTP, libc::SIGCONT);
    let on_terminal = Surroundings { pid1: true, has_terminal: true };
    play_in(on_terminal, policy(), &[(0, suspended(tstp, true), &[Action::Continue])], None);
    play_in(on_terminal, policy(), &[(0, suspended(libc::SIGSTOP, true), &[])], None);
    play_in(
        on_terminal,
        policy(),
        &[
            (0, Event::Signal(tstp), &[Action::Forward(tstp)]),
            (0, suspended(tstp, true), &[]),
            (1, Event::Signal(cont), &[Action::Forward(cont)]),
            (2, suspended(tstp, true), &[Action::Continue]),
        ],
        None,
    );
    play(policy(), &[(0, suspended(tstp, false), &[])], None);
}

#[test]
fn a_suspended_app_is_continued_so_that_it_receives_the_stop_signal() {
    let begin = [Action::Publish(Phase::Draining), Action::Forward(TERM), Action::Continue];
    play(
        policy(),
        &[
            (0, suspended(libc::SIGSTOP, false), &[]),
            (1, Event::Signal(TERM), &begin),
            (2, suspended(libc::SIGSTOP, false), &[Action::Continue]),
            (3, Event::Signal(TERM), &[Action::Forward(TERM)]),
        ],
        Some(9),
    );
}

#[test]
fn an_app_not_ready_in_time_is_stopped_and_the_code_is_124() {
    let lenient = StopPolicy { exit_map: ExitMap(vec![(0, 9), (124, 1)]), ..policy() };
    play(
        lenient,
        &[
            (30, Event::GiveUp(Code::TIMEOUT), &[Action::Publish(Phase::Draining), Action::Forward(TERM)]),
            (31, ended(0, false), &[Action::Finish(Code::TIMEOUT)]),
        ],
        Some(38),
    );
}

#[test]
fn without_an_app_a_signal_is_mapped_and_then_acts_by_default() {
    let map = SignalMap(vec![
        (libc::SIGWINCH, Some(TERM)),
        (libc::SIGUSR2, None),
        (libc::SIGALRM, Some(libc::SIGWINCH)),
        (libc::SIGQUIT, Some(libc::SIGUSR1)),
        (libc::SIGTTIN, Some(libc::SIGSTOP)),
        (37, Some(libc::SIGINT)),
    ]);
    for (received, want) in [
        (TERM, Effect::Terminates(TERM)),
        (libc::SIGINT, Effect::Terminates(libc::SIGINT)),
        (libc::SIGWINCH, Effect::Terminates(TERM)),
        (37, Effect::Terminates(libc::SIGINT)),
        (libc::SIGQUIT, Effect::Terminates(libc::SIGUSR1)),
        (libc::SIGUSR1, Effect::Terminates(libc::SIGUSR1)),
        (libc::SIGPWR, Effect::Terminates(libc::SIGPWR)),
        (36, Effect::Terminates(36)),
        (libc::SIGUSR2, Effect::Nothing),
        (libc::SIGALRM, Effect::Nothing),
        (libc::SIGCHLD, Effect::Nothing),
        (libc::SIGCONT, Effect::Nothing),
        (libc::SIGURG, Effect::Nothing),
        (HUP, Effect::Nothing),
        (libc::SIGTSTP, Effect::Suspends),
        (libc::SIGTTIN, Effect::Suspends),
    ] {
        assert_eq!(effect_without_app(&map, received, None, |signal| signal == HUP), want, "{received}");
    }
    assert_eq!(effect_without_app(&SignalMap::default(), libc::SIGWINCH, None, |_| false), Effect::Nothing);
    assert_eq!(
        effect_without_app(&SignalMap::default(), TERM, None, |_| true),
        Effect::Terminates(TERM),
        "a script's & ignores INT, and is ended all the same"
    );
}

#[test]
fn a_dead_parent_ends_a_wait_whichever_signal_reports_it() {
    let map = SignalMap(vec![(libc::SIGUSR1, Some(libc::SIGWINCH)), (TERM, None), (libc::SIGPWR, Some(libc::SIGQUIT))]);
    for (death, want) in [
        (libc::SIGWINCH, Effect::Terminates(libc::SIGWINCH)),
        (libc::SIGTSTP, Effect::Terminates(libc::SIGTSTP)),
        (libc::SIGUSR1, Effect::Terminates(libc::SIGWINCH)),
        (libc::SIGPWR, Effect::Terminates(libc::SIGQUIT)),
        (TERM, Effect::Nothing),
        // Every child that exits sends this one.
        (libc::SIGCHLD, Effect::Nothing),
    ] {
        assert_eq!(effect_without_app(&map, death, Some(death), |_| true), want, "{death}");
        assert_eq!(effect_without_app(&map, HUP, Some(death), |_| true), Effect::Nothing, "{death}");
    }
}

#[test]
fn a_signal_mapped_to_a_stop_starts_the_drain() {
    let drain = Duration::from_secs(2);
    let policy = StopPolicy { drain, signal_map: SignalMap(vec![(libc::SIGWINCH, Some(TERM))]), ..policy() };
    play(
        policy,
        &[
            (1, Event::Signal(libc::SIGWINCH), &[Action::Publish(Phase::Draining)]),
            (3, Event::Due, &[Action::Forward(TERM)]),
        ],
        Some(11),
    );
}
