//! Owns real servers on port 7878, as they are started without reberth; those that can be installed here. Must not know what is measured.

use std::process::Command;

use crate::bench::{Bench, words};
use crate::binary::{root, run};
use crate::fail::{Context, Outcome};

const ASGI: &str = r#"
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
"#;

const WSGI: &str = r#"
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"#;

/// Each server's name and command; their files are in this run's folder, which is the working directory.
///
/// # Errors
/// pip or javac failed.
pub fn servers(bench: &Bench) -> Outcome<Vec<(&'static str, Vec<String>)>> {
    let environment = root().join("target/bench-servers");
    if !environment.join("bin/gunicorn").exists() {
        eprintln!("bench: installing uvicorn and gunicorn");
        run(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
        run(Command::new(environment.join("bin/pip")).args(["install", "--quiet", "uvicorn", "gunicorn"]))?;
    }
    for (name, text) in [("asgi.py", ASGI), ("wsgi.py", WSGI)] {
        std::fs::write(bench.folder.join(name), text).context(name)?;
    }
    let installed = |line: &str| {
        let mut words = words(line);
        if let Some(program) = words.first_mut() {
            *program = environment.join("bin").join(&program).display().to_string();
        }
        words
    };
    let mut servers = vec![
        ("uvicorn", installed("uvicorn --host 0.0.0.0 --port 7878 --log-level critical asgi:app")),
        ("gunicorn", installed("gunicorn --bind [::]:7878 --no-control-socket --log-level critical wsgi:app")),
    ];
    if bench.has("node") {
        let script = "require('http').createServer((q, r) => r.end('ok')).listen(7878)";
        servers.push(("node", [words("node -e"), vec![script.to_owned()]].concat()));
    } else {
        eprintln!("bench: no node here: it is left out");
    }
    if bench.has("javac") {
        run(bench.tool("javac -d .")?.arg(root().join("examples/java/Server.java")))?;
        servers.push(("java", words("java -cp . Server")));
    } else {
        eprintln!("bench: no javac here: java is left out");
    }
    Ok(servers)
}
