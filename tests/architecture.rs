//! Owns the promises about the structure of src: no room uses one that ARCHITECTURE.md puts above it, no two files use each other, and the
//! linker script names modules that exist. Must not know what a room does: it reads `use` lines, paths, and the order on the page.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A file of src by its module's path, such as `["port", "holder", "words"]`.
type Module = Vec<String>;

/// What each file uses.
type Arrows = BTreeMap<Module, BTreeSet<Module>>;

/// The order of the rooms in ARCHITECTURE.md, the top one first; rooms on the same level stand together.
fn levels(page: &str) -> Vec<Vec<String>> {
    let (_, after) = page.split_once("## Which way arrows go").expect("ARCHITECTURE.md says which way arrows go");
    let (_, after) = after.split_once("```text\n").expect("a block of text with the order");
    let (block, _) = after.split_once("```").unwrap();
    let level = |text: &str| text.split(',').map(|room| room.trim().to_owned()).collect();
    block.split('→').map(level).collect()
}

/// The text of every file of src, by module; what only tests and fuzzers build is left out.
fn sources(folder: &Path) -> BTreeMap<Module, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let inside = path.strip_prefix(folder).unwrap().with_extension("");
            let mut module: Module = inside.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
            module.retain(|part| part != "mod");
            if !module.iter().any(|part| part == "tests" || part == "fuzzing") {
                found.insert(module, std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    found
}

/// The text of a file without comments and quoted text.
fn bare(text: &str) -> String {
    let mut bare = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("r#\"") {
            rest.find("\"#").unwrap() + 2
        } else if rest.starts_with("'\"'") || rest.starts_with("'{'") || rest.starts_with("'}'") {
            3
        } else if letter == '"' {
            let mut escaped = false;
            let closes = |(_, letter): &(usize, char)| {
                let closes = *letter == '"' && !escaped;
                escaped = *letter == '\\' && !escaped;
                closes
            };
            rest.char_indices().skip(1).find(closes).unwrap().0 + 1
        } else {
            bare.push(letter);
            letter.len_utf8()
        };
        rest = &rest[length..];
    }
    bare
}

/// The code of a file as words and marks, without anything that is only for tests.
fn code(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut tests = false;
    let bare = bare(text);
    for line in bare.lines().map(str::trim) {
        if tests && line.starts_with("#[") {
            continue;
        }
        if tests {
            // A module of tests is the last thing in its file; of any other test-only item, one line is left out.
            if line.contains("mod ") && line.ends_with('{') {
                break;
            }
            tests = false;
            continue;
        }
        tests = line.starts_with("#[cfg(test)]") || line.starts_with("#[cfg(any(test");
        if !tests {
            lines.push(line);
        }
    }
    let text = lines.join(" ");
    // The visibility of an item is not an arrow.
    let visible = text.split("pub(in ").enumerate();
    let text: String = visible.map(|(at, part)| if at == 0 { part } else { part.split_once(')').unwrap().1 }).collect();
    let mut words: Vec<String> = vec![String::new()];
    for letter in text.chars() {
        if letter.is_alphanumeric() || letter == '_' {
            words.last_mut().unwrap().push(letter);
        } else if !letter.is_whitespace() {
            words.extend([letter.to_string(), String::new()]);
        } else {
            words.push(String::new());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Every path in `words` that begins with a word of `starts`, with the trees of `use` expanded.
fn paths(words: &[String], starts: &BTreeSet<String>) -> Vec<Module> {
    let is = |at: usize, mark: &str| words.get(at).is_some_and(|word| word == mark);
    let separated = |at: usize| is(at, ":") && is(at + 1, ":");
    let mut found = Vec::new();
    for at in 0..words.len() {
        let begins = starts.contains(&words[at]) && separated(at + 1);
        if !begins || at >= 2 && is(at - 1, ":") && is(at - 2, ":") {
            continue;
        }
        // The path before each open `{`.
        let mut open: Vec<Module> = Vec::new();
        let mut path: Module = Vec::new();
        let mut next = at;
        while let Some(word) = words.get(next) {
            match word.as_str() {
                ":" => {}
                "{" if is(next - 1, ":") => open.push(path.clone()),
                "}" | "," if !open.is_empty() => {
                    let base = open.last().unwrap().clone();
                    if path.len() > base.len() {
                        found.push(path);
                    }
                    path = base;
                    if word == "}" {
                        open.pop();
                        path = open.last().cloned().unwrap_or_default();
                    }
                }
                name if name.starts_with(|first: char| first.is_alphabetic() || first == '_') => {
                    // Two names in a row: the path has ended, or `as` renames it.
                    if next > at && !is(next - 1, ":") && !is(next - 1, "{") && !is(next - 1, ",") {
                        if open.is_empty() {
                            break;
                        }
                    } else {
                        path.push(name.to_owned());
                    }
                }
                _ if open.is_empty() => break,
                _ => {}
            }
            next += 1;
        }
        found.extend(Some(path).filter(|path| !path.is_empty()));
    }
    found
}

/// Which file uses which.
fn arrows(sources: &BTreeMap<Module, String>) -> Arrows {
    let children = |module: &Module| -> BTreeSet<String> {
        let longer = sources.keys().filter(|other| other.len() == module.len() + 1 && other.starts_with(module));
        longer.map(|child| child.last().unwrap().clone()).collect()
    };
    let mut found = Arrows::new();
    for (module, text) in sources {
        let children = children(module);
        let mut starts: BTreeSet<String> = ["crate", "self", "super", "reberth"].map(str::to_owned).into();
        starts.extend(children.iter().cloned());
        let used = found.entry(module.clone()).or_default();
        for path in paths(&code(text), &starts) {
            let mut place = match path[0].as_str() {
                "crate" | "reberth" => Module::new(),
                "super" => module[..module.len() - 1].to_vec(),
                _ => module.clone(),
            };
            for part in path.iter().skip(usize::from(!children.contains(&path[0]))) {
                if part == "super" {
                    place.pop();
                } else if part != "self" {
                    place.push(part.clone());
                }
            }
            // What follows the file's own name is an item of it.
            while !place.is_empty() && !sources.contains_key(&place) {
                place.pop();
            }
            if !place.is_empty() && place != *module {
                used.insert(place);
            }
        }
    }
    found
}

/// Arrows that lead up, or to a room that the order does not name.
fn upward(arrows: &Arrows, levels: &[Vec<String>]) -> Vec<String> {
    let level = |room: &String| levels.iter().position(|level| level.contains(room));
    let mut wrong = Vec::new();
    for (from, used) in arrows {
        for to in used.iter().filter(|to| to[0] != from[0]) {
            match (level(&from[0]), level(&to[0])) {
                (Some(above), Some(below)) if above < below => {}
                _ => wrong.push(format!("{} uses {}", from.join("/"), to.join("/"))),
            }
        }
    }
    wrong
}

/// A circle of files, as the path around it; `None` if there is none.
fn circle(arrows: &Arrows) -> Option<Vec<String>> {
    fn walk<'a>(
        at: &'a Module,
        arrows: &'a Arrows,
        way: &mut Vec<&'a Module>,
        done: &mut BTreeSet<&'a Module>,
    ) -> bool {
        way.push(at);
        for to in arrows.get(at).into_iter().flatten() {
            if way.contains(&to) {
                way.push(to);
                return true;
            }
            if !done.contains(to) && walk(to, arrows, way, done) {
                return true;
            }
        }
        way.pop();
        done.insert(at);
        false
    }
    let mut done = BTreeSet::new();
    arrows.keys().find_map(|from| {
        let mut way = Vec::new();
        let found = !done.contains(from) && walk(from, arrows, &mut way, &mut done);
        let around = way.iter().skip_while(|module| way.last() != Some(module));
        found.then(|| around.map(|module| module.join("/")).collect())
    })
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn no_room_uses_one_above_it() {
    let levels = levels(&std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap());
    let sources = sources(&root().join("src"));
    let rooms: BTreeSet<&String> = sources.keys().map(|module| &module[0]).filter(|room| *room != "lib").collect();
    let named: BTreeSet<&String> = levels.iter().flatten().collect();
    assert_eq!(named, rooms, "the order in ARCHITECTURE.md names every room of src, and no other");
    assert_eq!(upward(&arrows(&sources), &levels), [""; 0]);
}

#[test]
fn no_files_use_each_other() {
    let arrows = arrows(&sources(&root().join("src")));
    // The path reader sees the arrows: a guard that finds no arrows would find no circle either.
    assert!(arrows.values().map(BTreeSet::len).sum::<usize>() > 500, "{arrows:?}");
    assert_eq!(circle(&arrows), None);
}

/// The module named by a pattern over mangled names: `.text._R*7reberth6config6decide*` is `config/decide`. `None`: in another crate.
fn linked(pattern: &str) -> Option<Module> {
    let mut rest = pattern.strip_prefix(".text._R*7reberth")?.strip_suffix('*').unwrap();
    let mut module = Module::new();
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap();
        let (length, name) = rest.split_at(digits);
        let (name, tail) = name.split_at(length.parse().unwrap());
        module.push(name.to_owned());
        rest = tail;
    }
    Some(module)
}

#[test]
fn the_linker_script_names_modules_that_exist() {
    let script = std::fs::read_to_string(root().join("link/probe.ld")).unwrap();
    let sources = sources(&root().join("src"));
    let named: Vec<Module> = script.split([' ', '(', ')', '\n']).filter_map(linked).collect();
    assert!(named.len() > 5, "{named:?}");
    let missing: Vec<&Module> = named.iter().filter(|module| !sources.contains_key(*module)).collect();
    assert!(missing.is_empty(), "link/probe.ld names what is no module of src any more: {missing:?}");
}

fn made(files: &[(&str, &str)]) -> Arrows {
    let module = |path: &str| path.split('/').map(str::to_owned).collect();
    arrows(&files.iter().map(|(path, text)| (module(path), (*text).to_owned())).collect())
}

#[test]
fn a_circle_and_an_arrow_that_leads_up_are_found() {
    let order = [vec!["main".to_owned()], vec!["a".to_owned(), "b".to_owned()], vec!["c".to_owned()]];
    for (files, wrong, round) in [
        (&[("a", "use crate::c::X;"), ("c", "")][..], 0, false),
        (&[("a", ""), ("c", "use crate::a::X;")], 1, false),
        (&[("a", ""), ("c", "fn x() { crate::a::x() }")], 1, false),
        (&[("a", ""), ("b", "use crate::{c, a};"), ("c", "")], 1, false),
        (&[("main", "use reberth::a::{X, b::{self, Y}};"), ("a", "")], 0, false),
        (&[("a", "mod x;\nuse x::X;"), ("a/x", "use super::Y;")], 0, true),
        (&[("a", "mod x;\nfn f() { x::g() }"), ("a/x", "fn g() { super::h() }")], 0, true),
        (&[("a", "mod x;\nmod y;\nuse x::X;"), ("a/x", "use super::{y, y::{Y, Z}};"), ("a/y", "")], 0, false),
        (&[("a/x", "use super::y::{Y, Z as W};"), ("a/y", "use crate::a::{q::Q, x};"), ("a/q", "")], 0, true),
        (&[("a/x", "use super::y::Y;"), ("a/y", "use super::z;"), ("a/z", "fn f() { super::x::g() }")], 0, true),
        // Comments, quoted text and tests are not arrows.
        (&[("a/x", "use super::y;"), ("a/y", "// super::x\nconst T: &str = \"http://h\\\"super::x::X\";")], 0, false),
        (&[("a/x", "use super::y;"), ("a/y", "const T: char = '\"'; const U: &str = \"super::x::X\";")], 0, false),
        (
            &[("a/x", "use super::y;"), ("a/y", "#[cfg(test)]\n#[allow(x)]\npub mod tests {\n use crate::a::x::*;\n}")],
            0,
            false,
        ),
        (&[("a", "mod y;\nuse y::f;"), ("a/y", "pub(in crate::a) fn f() {}")], 0, false),
    ] {
        let arrows = made(files);
        assert_eq!(upward(&arrows, &order).len(), wrong, "{files:?}: {arrows:?}");
        assert_eq!(circle(&arrows).is_some(), round, "{files:?}: {arrows:?}");
    }
}
