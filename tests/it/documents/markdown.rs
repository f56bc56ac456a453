//! As much of Markdown as the pages need: fenced blocks, headings, links, tables.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

pub(super) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A page, named from the root of the repository.
pub(super) struct Page {
    pub name: String,
    pub text: String,
}

/// A fenced block.
#[derive(Clone, Debug)]
pub(super) struct Block {
    /// The page and the line at which it begins.
    pub place: String,
    /// The heading of second level that it stands under.
    pub section: String,
    /// What follows the fence.
    pub info: String,
    pub text: String,
}

/// README.md and docs/*.md.
pub(super) fn pages() -> Vec<Page> {
    let mut names: Vec<PathBuf> = std::fs::read_dir(root().join("docs"))
        .expect("there are docs")
        .flatten()
        .map(|entry| Path::new("docs").join(entry.file_name()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    names.push("README.md".into());
    names.sort();
    let read = |name: &Path| std::fs::read_to_string(root().join(name)).expect("it is read");
    names.iter().map(|name| Page { name: name.display().to_string(), text: read(name) }).collect()
}

pub(super) fn page(name: &str) -> Page {
    pages().into_iter().find(|page| page.name == name).unwrap_or_else(|| panic!("there is no {name}"))
}

impl Page {
    pub(super) fn blocks(&self) -> Vec<Block> {
        let mut blocks: Vec<Block> = Vec::new();
        let (mut section, mut open) = (String::new(), false);
        for (number, line) in (1..).zip(self.text.lines()) {
            match line.strip_prefix("```") {
                Some(_) if open => open = false,
                Some(info) => {
                    open = true;
                    let place = format!("{}:{number}", self.name);
                    blocks.push(Block { place, section: section.clone(), info: info.trim().to_owned(), text: String::new() });
                }
                None if open => {
                    let block = blocks.last_mut().expect("one is open");
                    block.text.push_str(line);
                    block.text.push('\n');
                }
                None => {
                    if let Some(heading) = line.strip_prefix("## ") {
                        heading.clone_into(&mut section);
                    }
                }
            }
        }
        assert!(!open, "{}: a fence without an end", self.name);
        blocks
    }

    /// The lines that are in no fenced block, with their numbers.
    pub(super) fn prose(&self) -> Vec<(usize, &str)> {
        let mut open = false;
        (1..)
            .zip(self.text.lines())
            .filter(|(_, line)| {
                let fence = line.starts_with("```");
                open ^= fence;
                !open && !fence
            })
            .collect()
    }

    /// What a link with `#` may name, by GitHub's rule.
    pub(super) fn anchors(&self) -> BTreeSet<String> {
        let heading = |line: &str| line.strip_prefix('#').map(|rest| rest.trim_start_matches('#').trim().to_lowercase());
        let slug = |heading: String| {
            let kept = heading.chars().filter(|c| c.is_alphanumeric() || "-_ ".contains(*c));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        };
        self.prose().into_iter().filter_map(|(_, line)| heading(line)).map(slug).collect()
    }

    /// The targets of its links, with the number of their line.
    pub(super) fn links(&self) -> Vec<(usize, String)> {
        let of_line = |(number, line): (usize, &str)| -> Vec<(usize, String)> {
            let targets = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
            targets.map(|target| (number, target.to_owned())).collect()
        };
        self.prose().into_iter().flat_map(of_line).collect()
    }

    /// What stands in backticks, outside of blocks.
    pub(super) fn code(&self) -> Vec<(usize, String)> {
        let of_line = |(number, line): (usize, &str)| -> Vec<(usize, String)> {
            line.split('`').skip(1).step_by(2).map(|code| (number, code.to_owned())).collect()
        };
        self.prose().into_iter().flat_map(of_line).collect()
    }

    /// The rows of all tables under a heading, cell by cell, without their heads.
    pub(super) fn rows(&self, heading: &str) -> Vec<Vec<String>> {
        let level = heading.chars().take_while(|c| *c == '#').count();
        let ends = |line: &&str| {
            let hashes = line.chars().take_while(|c| *c == '#').count();
            hashes > 0 && hashes <= level
        };
        let lines: Vec<&str> = self.text.lines().skip_while(|line| !line.starts_with(heading)).skip(1).collect();
        assert!(!lines.is_empty(), "{}: there is no heading {heading}", self.name);
        let lines: Vec<&str> = lines.into_iter().take_while(|line| !ends(line)).collect();
        let cells = |line: &str| -> Vec<String> {
            let inner = line.trim().trim_start_matches('|').trim_end_matches('|');
            inner.split('|').map(|cell| cell.trim().to_owned()).collect()
        };
        let is_head = |at: usize| lines.get(at + 1).is_some_and(|next| next.starts_with("|---"));
        let rows =
            lines.iter().enumerate().filter(|(at, line)| line.starts_with('|') && !line.starts_with("|---") && !is_head(*at));
        rows.map(|(_, line)| cells(line)).collect()
    }
}
