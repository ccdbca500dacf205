//! Owns what every measurement needs: the number of rounds, the programs, and their small environment. Must not know any measurement.

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::process::{Command as Tool, Stdio};
use std::rc::Rc;

use crate::binary::built;
use crate::fail::{Context, Outcome, fail};
use crate::peers::{PATH, PEERS, compile, find};
use crate::spawn::Command;

/// A command that takes turns with others, with its label in tables.
pub struct Peer {
    pub label: String,
    pub command: Command,
    /// This exit code is accepted too.
    pub worst_code: i32,
}

impl Peer {
    pub fn may_end_with(mut self, code: i32) -> Self {
        self.worst_code = code;
        self
    }
}

/// The options of the command line.
pub struct Options {
    pub quick: bool,
    pub binary: Option<PathBuf>,
    pub against: Option<PathBuf>,
}

pub struct Bench {
    pub quick: bool,
    /// A binary was given: it is measured, and nothing is built.
    pub given: bool,
    /// Created for this run and removed after it.
    pub folder: PathBuf,
    path: String,
    environment: Rc<[CString]>,
    reberth: String,
    against: Option<String>,
    itself: String,
}

impl Bench {
    /// Copies and compiles everything that is measured into `folder`.
    ///
    /// # Errors
    /// Something is missing, or cannot be built.
    pub fn prepare(options: Options, folder: &Path) -> Outcome<Self> {
        let given = options.binary.is_some();
        let binary = match options.binary {
            Some(binary) => named("--binary", binary)?,
            None => built(false)?,
        };
        let against = options.against.map(|binary| named("--against", binary)).transpose()?;
        let bin = folder.join("bin");
        let reberth = copied(&binary, &bin, "reberth")?;
        let against = against.map(|binary| copied(&binary, &folder.join("against"), "reberth")).transpose()?;
        for peer in PEERS {
            if let Some(file) = find(peer, PATH) {
                copied(&file, &bin, peer)?;
            }
        }
        compile(&bin)?;
        let path = format!("{}:{PATH}", bin.display());
        // Small, as in a container.
        let environment = [format!("PATH={path}"), "HOME=/root".to_owned(), "LANG=C.UTF-8".to_owned()];
        let environment = environment.map(|variable| CString::new(variable).unwrap_or_default());
        let itself = std::env::current_exe().context("this program's own file")?;
        Ok(Self {
            quick: options.quick,
            given,
            folder: folder.to_owned(),
            path,
            environment: Rc::new(environment),
            reberth,
            against,
            itself: itself.display().to_string(),
        })
    }

    pub fn rounds(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }

    /// # Errors
    /// There is no such program.
    pub fn command(&self, words: &[String]) -> Outcome<Command> {
        let name = words.first().map_or("", String::as_str);
        let file = if name.contains('/') { name.to_owned() } else { self.find(name)? };
        Command::new(&file, words, &self.environment)
    }

    /// # Errors
    /// As [`Self::command`].
    pub fn peer(&self, label: impl Into<String>, words: &[String]) -> Outcome<Peer> {
        Ok(Peer { label: label.into(), command: self.command(words)?, worst_code: 0 })
    }

    /// A tool that inspects what is measured, in the same environment.
    ///
    /// # Errors
    /// It is not installed.
    pub fn tool(&self, line: &str) -> Outcome<Tool> {
        let words = words(line);
        let Some((name, rest)) = words.split_first() else { return fail("no tool") };
        let mut tool = Tool::new(self.find(name)?);
        tool.args(rest)
            .env_clear()
            .env("PATH", &self.path)
            .env("HOME", "/root")
            .env("LANG", "C.UTF-8")
            .stdin(Stdio::null());
        Ok(tool)
    }

    fn find(&self, name: &str) -> Outcome<String> {
        let file = find(name, &self.path).context(format_args!("{name}: not found in {}", self.path))?;
        Ok(file.display().to_string())
    }

    /// Whether this machine has the program.
    pub fn has(&self, name: &str) -> bool {
        find(name, &self.path).is_some()
    }

    /// A command line of the measured binary, from arguments without spaces: `run -p 7878 --`.
    pub fn reberth(&self, line: &str) -> Vec<String> {
        [vec![self.reberth.clone()], words(line)].concat()
    }

    /// The same with the binary of `--against`, if there is one.
    pub fn against(&self, line: &str) -> Option<Vec<String>> {
        self.against.as_ref().map(|binary| [vec![binary.clone()], words(line)].concat())
    }

    /// One of the C programs.
    pub fn bare(&self, line: &str) -> Vec<String> {
        let mut words = words(line);
        if let Some(program) = words.first_mut() {
            *program = self.folder.join("bin").join(&program).display().to_string();
        }
        words
    }

    /// An app that is built into this program.
    pub fn app(&self, line: &str) -> Vec<String> {
        [vec![self.itself.clone(), "app".to_owned()], words(line)].concat()
    }

    /// The size of the measured binary.
    ///
    /// # Errors
    /// It does not exist any more.
    pub fn size(&self) -> Outcome<u64> {
        Ok(std::fs::metadata(&self.reberth).context(&self.reberth)?.len())
    }

    /// Every init around the same app.
    ///
    /// # Errors
    /// One is missing.
    pub fn inits(&self, app: &[String]) -> Outcome<Vec<Peer>> {
        let mut inits = vec![self.peer("reberth run --", &[&self.reberth("run --"), app].concat())?];
        for line in ["tini-static -s --", "catatonit --", "dumb-init"] {
            inits.push(self.peer(line, &[&words(line), app].concat())?);
        }
        // There is no package for it: an engine installs it.
        if self.has("docker-init") {
            let line = "docker-init -s --";
            inits.push(self.peer(line, &[&words(line), app].concat())?);
        }
        Ok(inits)
    }
}

/// A binary given by a flag.
fn named(flag: &str, binary: PathBuf) -> Outcome<PathBuf> {
    if binary.is_file() {
        return Ok(binary);
    }
    fail(format_args!("{flag} '{}': no such file; name a reberth that is built", binary.display()))
}

/// The words of a line.
pub fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// Copies a file to be executed. How a file was written affects its start: in the page cache its pages lie in chunks as large as the
/// writes, which makes a difference of a tenth of a `healthcheck`. So all files are written in the same way: by the kernel, 64 KiB at a
/// time, about like a program that unpacks an image.
fn copied(file: &Path, folder: &Path, name: &str) -> Outcome<String> {
    let copy = folder.join(name);
    std::fs::create_dir_all(folder).and_then(|()| std::fs::copy(file, &copy)).context(file.display())?;
    Ok(copy.display().to_string())
}
