//! The terminal: the app has it while it runs, and afterwards its previous owner has it again.

use crate::harness::{Launch, Running, launch::Stdio, look, place, terminal, until};
use crate::{app, both, run, run_app};

/// Starts the program on a new terminal, as the leader of its session. Returns the master side too.
fn on_terminal(launch: Launch) -> (Running, std::os::fd::OwnedFd) {
    let (master, slave) = terminal::pair();
    let mut launch = launch
        .stdin(Stdio::Given(terminal::copy(&slave)))
        .stdout(Stdio::Given(terminal::copy(&slave)))
        .stderr(Stdio::Given(slave));
    launch.terminal = true;
    let mut running = launch.start();
    running.read_from(terminal::copy(&master));
    (running, master)
}

/// A shell that runs the command as its child, prints the exit code, and reads a line from the terminal, which it should have back.
fn under_a_shell(inner: &Launch, script: &str) -> Launch {
    let mut outer = Launch::new("sh").args(["-c", script, "sh"]).args(inner.words.clone());
    outer.environment.extend(inner.environment.iter().filter(|(name, _)| name == "REBERTH_STATE_DIR").cloned());
    outer.first = inner.first;
    outer
}

#[test]
fn the_app_is_in_the_foreground_and_gets_ctrl_c_once() {
    both(|mode| {
        let (mut running, master) = on_terminal(mode(run_app(&[], "block ready until=12 exit=3")));
        let app = running.ready();
        let app = running.outside(app);
        assert_eq!(terminal::foreground(&master), look::stat(app).unwrap().group);
        assert_eq!(look::stat(app).unwrap().group, app);
        running.write("\x03");
        running.line_after("^C");
        // Not a second time through reberth: the next line is about the next signal.
        running.signal(10);
        running.expect("signal 10");
        running.signal(12);
        running.expect("signal 12");
        running.finish().expect_code(3);
    });
}

#[test]
fn the_terminal_returns_to_its_previous_owner() {
    // Not as PID 1: when that exits, no process is left in its namespace to have the terminal.
    for (command, code) in [
        (app::words("ready exit=3"), "3"),
        (app::words("ready die=9"), "137"),
        (vec!["/no/such/file".into()], "127"),
        (vec!["/etc".into()], "126"),
    ] {
        let inner = run(&[], command);
        let script = "\"$@\"; echo code $?; read x; echo got $x";
        let (mut running, _master) = on_terminal(under_a_shell(&inner, script));
        running.line_after(&format!("code {code}"));
        // A process in the background would be stopped when it reads, or get nothing.
        running.write("hello\n");
        running.line_after("got hello");
        running.finish().expect_code(0);
    }
}

#[test]
fn a_shell_as_the_app_has_job_control() {
    both(|mode| {
        let (mut running, _master) = on_terminal(mode(run(&[], ["bash", "--norc", "--noprofile", "-i"])));
        running.write("echo sum-$((40 + 2))\n");
        running.line_after("sum-42");
        // A foreground job, stopped by the terminal and continued, then killed by it.
        running.write("sleep 1000\n");
        let init = running.init;
        until("the job runs", || tree(init).iter().any(|&p| look::command_line(p) == "sleep 1000"));
        until("the job has the terminal", || {
            tree(init).iter().any(|&p| {
                look::command_line(p) == "sleep 1000" && look::stat(p).is_some_and(|s| s.foreground == s.group)
            })
        });
        running.write("\x1a");
        running.output_until("the shell says that the job is stopped", |out, _| out.contains("Stopped"));
        running.write("jobs; kill -9 %1; exit 5\n");
        running.write("exit 5\n");
        let outcome = running.finish().expect_code(5);
        assert!(!outcome.stdout.contains("no job control"), "{}", outcome.report());
    });
}

/// A process and all its descendants.
fn tree(top: i32) -> Vec<i32> {
    let mut found = vec![top];
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        found.extend(look::children(pid));
        next += 1;
    }
    found
}

#[test]
fn in_the_background_reberth_leaves_the_terminal_alone() {
    let inner = run_app(&[], "block ready until=15 exit=3");
    // `-m`: the job gets its own group, and the shell keeps the terminal.
    let script = "set -m; \"$@\" & echo started; wait $!; echo code $?; read x; echo got $x";
    let (mut running, master) = on_terminal(under_a_shell(&inner, script));
    let app = running.ready();
    let shell = running.pid;
    assert_eq!(terminal::foreground(&master), shell, "the app took the terminal");
    assert_eq!(look::stat(app).unwrap().group, app);
    crate::harness::running::kill(app, 15);
    running.line_after("code 3");
    running.write("hello\n");
    running.line_after("got hello");
}

#[test]
fn a_terminal_that_is_not_the_controlling_one_is_no_reason_to_fail() {
    let (master, slave) = terminal::pair();
    let launch = run_app(&[], "ready exit=3").stdin(Stdio::Given(slave));
    launch.start().finish().expect_code(3);
    drop(master);
}

#[test]
fn a_terminal_that_hangs_up_ends_the_app() {
    let (running, master) = on_terminal(run_app(&["--grace", "2s"], "block say=x ready until=1 exit=3"));
    let mut running = running;
    running.ready();
    let state = running.init;
    running.read_from(crate::harness::launch::open("/dev/null", libc::O_RDONLY));
    drop(master);
    // The kernel signals the session leader, which is reberth; reberth forwards that. The app may get it from the kernel too, as the
    // foreground group.
    until("reberth ends", || !look::alive(state));
    running.finish().expect_code(3);
}

#[test]
fn ctrl_z_gives_an_interactive_shell_its_terminal_back() {
    let inner = run_app(&[], "ready line say=went-on exit=3");
    let (mut running, master, words) = interactive(&inner);
    running.write(&format!("{words}\n"));
    let app = running.ready();
    until("the app has the terminal", || terminal::foreground(&master) == app);
    running.write("\x1a");
    until("the app is stopped", || look::stat(app).is_some_and(|s| s.state == 'T'));
    let shell = running.pid;
    until("the shell has the terminal", || terminal::foreground(&master) == shell);
    running.write("fg\n");
    until("the app has the terminal again", || terminal::foreground(&master) == app);
    running.write("\n");
    running.line_after("went-on");
    running.write("echo code-$?\n");
    running.line_after("code-3");
    running.write("exit 0\n");
    running.finish().expect_code(0);
}

/// An interactive bash on a new terminal, and the command line that starts `inner` in it. The prompt is empty and the kernel does the echo:
/// a prompt may appear at any time, even in the middle of a background job's output.
fn interactive(inner: &Launch) -> (Running, std::os::fd::OwnedFd, String) {
    let words: Vec<String> = inner.words.iter().map(|w| format!("'{}'", w.to_string_lossy())).collect();
    let mut outer = Launch::new("bash").args(["--norc", "--noprofile", "--noediting", "-i"]).env("PS1", "");
    outer.environment.extend(inner.environment.iter().filter(|(name, _)| name == "REBERTH_STATE_DIR").cloned());
    let (running, master) = on_terminal(outer);
    (running, master, words.join(" "))
}

#[test]
fn a_job_that_ends_in_the_background_leaves_the_shell_its_terminal() {
    let inner = run_app(&[], "ready line exit=3");
    let (mut running, master, words) = interactive(&inner);
    let shell = running.pid;
    running.write(&format!("{words}\n"));
    let app = running.ready();
    let reberth = look::stat(app).unwrap().parent;
    until("the app has the terminal", || terminal::foreground(&master) == app);
    running.write("\x1a");
    until("the shell has the terminal", || terminal::foreground(&master) == shell);
    running.write("kill %1\n");
    until("reberth is gone", || !look::alive(reberth));
    assert_eq!(terminal::foreground(&master), shell, "reberth took the terminal from the shell");
    running.write("echo still-$((40 + 2)); exit 0\n");
    running.line_after("still-42");
    running.finish().expect_code(0);
}

#[test]
fn an_app_that_stops_itself_gives_the_shell_its_prompt() {
    let inner = run_app(&[], "ready stop say=went-on exit=3");
    let (mut running, master, words) = interactive(&inner);
    let shell = running.pid;
    running.write(&format!("{words}\n"));
    let app = running.ready();
    until("the shell has the terminal", || terminal::foreground(&master) == shell);
    running.write("fg\n");
    running.line_after("went-on");
    running.write("echo code-$?; exit 0\n");
    running.line_after("code-3");
    running.finish().expect_code(0);
    assert!(!look::alive(app));
}

#[test]
fn an_app_started_in_the_background_reads_the_terminal_after_fg() {
    let inner = run_app(&[], "ready line say=went-on exit=3");
    let (mut running, master, words) = interactive(&inner);
    running.write(&format!("{words} &\n"));
    let app = running.ready();
    let reberth = look::stat(app).unwrap().parent;
    until("reading stops the app, and reberth with it", || {
        [app, reberth].iter().all(|pid| look::stat(*pid).is_some_and(|s| s.state == 'T'))
    });
    running.write("fg\n");
    until("the app has the terminal", || terminal::foreground(&master) == app);
    running.write("\n");
    running.line_after("went-on");
    running.write("echo code-$?; exit 0\n");
    running.line_after("code-3");
    running.finish().expect_code(0);
}

/// A shell without job control leaves a command started with `&` in its own group, in the foreground, with an empty stdin.
#[test]
fn a_script_keeps_the_terminal_from_what_it_starts_in_the_background() {
    let inner = run_app(&[], "block ready until=15 exit=3");
    let script = "\"$@\" & echo started; read x; echo got $x; kill $!; wait $!; echo code $?";
    let (mut running, master) = on_terminal(under_a_shell(&inner, script));
    running.ready();
    let shell = running.pid;
    assert_eq!(terminal::foreground(&master), shell, "the app took the terminal");
    running.write("hello\n");
    running.line_after("got hello");
    running.line_after("code 3");
    running.finish().expect_code(0);
}

/// PID 1 has no shell above it, so no process could continue it.
#[test]
fn the_stop_key_does_not_freeze_a_container() {
    let (mut running, _master) = on_terminal(run_app(&[], "ready line say=went-on exit=3").first_in_namespace());
    running.ready();
    running.write("\x1a");
    running.output_until("the app was continued", |out, _| out.contains("and no shell here could continue it"));
    running.write("\n");
    running.line_after("went-on");
    running.finish().expect_code(3);
}

/// Control for this file: an app started without a terminal has none, and `app::words` alone takes none.
#[test]
fn without_a_terminal_nothing_is_taken() {
    let words = app::words("ready exit=0");
    let outcome = run(&[], words).start().finish().expect_code(0);
    assert_eq!(outcome.stdout.lines().count(), 1, "{}", outcome.report());
}

/// A run that waits 3 s for a busy port, with its standard error on a new terminal: what it wrote there.
fn waits_on_a_terminal(change: impl FnOnce(Launch) -> Launch) -> String {
    let port = place::free_port();
    let _holder = std::net::TcpListener::bind(("0.0.0.0", port)).unwrap();
    let (master, slave) = terminal::pair();
    let launch = run_app(&["--port", &port.to_string(), "--wait", "2500ms"], "exit=0")
        .stdin(Stdio::Given(terminal::copy(&slave)));
    let mut launch = change(launch.stderr(Stdio::Given(slave)));
    (launch.stdout, launch.terminal) = (Stdio::Null, true);
    let mut running = launch.start();
    running.read_from(master);
    let outcome = running.finish().expect_code(124);
    outcome.stdout.replace(&port.to_string(), "PORT")
}

#[test]
fn the_wait_is_drawn_on_a_terminal_and_erased_at_the_end() {
    let said = waits_on_a_terminal(|launch| launch);
    // Each drawing begins at the margin and erases the rest; three fit into the time.
    for left in ["3s", "2s", "1s"] {
        let line = format!("\rwaiting for port PORT, {left} left: held by pid ");
        assert_eq!(said.matches(&line).count(), 1, "{left}: {said:?}");
    }
    let (_, after) = said.rsplit_once("\rwaiting for").unwrap();
    let (line, after) = after.split_once("\x1b[K").unwrap();
    assert!(line.chars().count() < 80, "it would wrap: {line:?}");
    assert!(after.starts_with("\r\x1b[K") && after.contains("is busy after 2.5s"), "{after:?}");
    // The log has its lines all the same.
    assert_eq!(said.matches("port PORT is busy, waiting for up to 2.5s").count(), 1, "{said:?}");
}

#[test]
fn the_wait_is_not_drawn_without_a_reader() {
    for (name, value) in
        [("REBERTH_LOG_FORMAT", "json"), ("REBERTH_LOG", "error"), ("REBERTH_LOG", "off"), ("TERM", "dumb")]
    {
        let said = waits_on_a_terminal(|launch| launch.env(name, value));
        assert!(!said.contains("waiting for port PORT,") && !said.contains("\x1b[K"), "{name}={value}: {said:?}");
    }
    let port = place::free_port();
    let _holder = std::net::TcpListener::bind(("0.0.0.0", port)).unwrap();
    let launch = run_app(&["--port", &port.to_string(), "--wait", "1200ms"], "exit=0");
    let outcome = launch.start().finish().expect_code(124);
    assert!(!outcome.stderr.contains(['\r', '\x1b']), "{}", outcome.report());
}

/// A signal ends the wait in the middle of a drawn line.
#[test]
fn an_interrupted_wait_leaves_no_drawing_behind() {
    let port = place::free_port();
    let _holder = std::net::TcpListener::bind(("0.0.0.0", port)).unwrap();
    let (master, slave) = terminal::pair();
    let launch = run_app(&["--port", &port.to_string()], "exit=0").stdin(Stdio::Given(terminal::copy(&slave)));
    let mut launch = launch.stderr(Stdio::Given(slave));
    (launch.stdout, launch.terminal) = (Stdio::Null, true);
    let mut running = launch.start();
    running.read_from(master);
    running.output_until("the drawing", |out, _| out.contains("\rwaiting for port"));
    running.write("\x03");
    let outcome = running.finish().expect_code(130);
    let (_, after) = outcome.stdout.rsplit_once("\rwaiting for").unwrap();
    let (_, after) = after.split_once("\x1b[K").unwrap();
    assert!(after.contains("\r\x1b[K") && after.contains("SIGINT received while waiting"), "{after:?}");
}
