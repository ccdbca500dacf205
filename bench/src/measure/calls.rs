//! Owns the question what the filter that intercepts an app's bind costs the app, and the app that times its own calls. Must not know how
//! the filter works.

use std::ffi::CString;
use std::net::{Ipv4Addr, SocketAddrV4};

use nix::unistd::execv;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

use crate::bench::Bench;
use crate::clock::now;
use crate::fail::{Context, Outcome};
use crate::isolate::in_network;
use crate::report::Report;
use crate::rounds::{Random, in_turns};
use crate::row;
use crate::samples::{Found, Samples, ratio};
use crate::spawn::output;
use crate::sys;
use crate::table::{times, us};

/// How many of the cheapest calls make one sample: reading the clock takes about as long as one call.
const CALLS: i64 = 100;

const BARE: &str = "bare";
const HEARD: &str = "under --handover bind";
const BARE_PROFILED: &str = "bare, below a profile";
const HEARD_PROFILED: &str = "under it, below a profile";

/// What the app measured, in nanoseconds: each bind, and each hundred of getppid.
#[derive(Default, Serialize, Deserialize)]
struct Times {
    bind: Vec<i64>,
    getppid: Vec<i64>,
}

pub fn measure(bench: &Bench, report: &mut Report) -> Outcome<()> {
    let app = bench.app(&format!("calls {} 7878", bench.rounds(3000, 300)));
    let heard = bench.reberth("run -p 127.0.0.1:7878 --handover bind --log off --");
    let profiled = bench.app("profiled");
    let peers = [
        bench.peer(BARE, &app)?,
        bench.peer(HEARD, &[&heard[..], &app].concat())?,
        bench.peer(BARE_PROFILED, &[&profiled[..], &app].concat())?,
        bench.peer(HEARD_PROFILED, &[&profiled[..], &heard, &app].concat())?,
    ];
    let mut found: Vec<_> = peers.iter().map(|_| Times::default()).collect();
    in_turns(peers.len(), 0, bench.rounds(6, 2), &mut Random::new(), |number, _, _| {
        let told = in_network(|| output(&peers[number].command))?;
        let told: Times = serde_json::from_str(&told).context("what the app measured")?;
        found[number].bind.extend(told.bind);
        found[number].getppid.extend(told.getppid);
        Ok(())
    })?;
    let samples = |times: Times| (times.bind.into_iter().collect::<Samples>(), times.getppid.into_iter().collect());
    let found: Found<(Samples, Samples)> =
        peers.iter().map(|peer| peer.label.clone()).zip(found.into_iter().map(samples)).collect();
    let one = |getppid: &Samples| getppid.median() as f64 / CALLS as f64;
    let rows: Vec<_> = found
        .iter()
        .map(|(label, (bind, getppid))| row![label, us(bind.median()), us(bind.p99()), format!("{:.1}", one(getppid))])
        .collect();

    let more = (found[HEARD].0.median() - found[BARE].0.median()) as f64 / 1e6;
    let what = "one bind of the app through reberth, over a bare one";
    report.promise(what, "≤ 0.3 ms", format!("{more:.3} ms"), more <= 0.3);
    let more = one(&found[HEARD].1) - one(&found[BARE].1);
    report.promise(
        "any other system call below the filter",
        "≤ 20 ns more",
        format!("{more:.1} ns more"),
        more <= 20.0,
    );
    let ratio = ratio(found[HEARD_PROFILED].1.median(), found[BARE_PROFILED].1.median());
    report.promise("the same below a profile that is there anyway", "≤ 1.05 ×", times(ratio), ratio <= 1.05);
    let text = "An app binds its port again and again, and then asks for its parent's pid. A profile is a filter that allows everything.";
    let head = ["", "bind(2), median µs", "p99 µs", "getppid(2), median ns"];
    report.section("What hearing an app's bind costs the app", text, &head, &rows);
    Ok(())
}

/// The app: it binds repeatedly, then queries its parent's pid repeatedly, and reports how long each took.
pub fn app(count: usize, port: u16) -> Outcome<()> {
    let place = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port).into();
    let mut times = Times::default();
    for _ in 0..count {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).context("a socket")?;
        socket.set_reuse_address(true).context("SO_REUSEADDR")?;
        let began = now();
        socket.bind(&place).context("bind")?;
        times.bind.push(now() - began);
    }
    for _ in 0..count {
        let began = now();
        for _ in 0..CALLS {
            sys::getppid();
        }
        times.getppid.push(now() - began);
    }
    println!("{}", serde_json::to_string(&times).context("what was measured")?);
    Ok(())
}

/// Executes the command under a filter that allows everything.
pub fn profiled(command: &[String]) -> Outcome<()> {
    let words =
        command.iter().map(|word| CString::new(word.as_str())).collect::<Result<Vec<_>, _>>().context("a word")?;
    let file = words.first().context("no command")?;
    sys::allow_everything().context("no filter")?;
    execv(file, &words).map(drop).context(file.to_string_lossy())
}
