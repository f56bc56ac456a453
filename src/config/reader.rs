//! Reading typed values out of the tree, and collecting every mistake on the way.

use std::path::PathBuf;
use std::time::Duration;

use super::document::{Entry, Mistake, Node, Origin, Value, place};
use super::keys;

/// Collects mistakes; one per run, shared by all sections.
#[derive(Debug)]
pub struct Mistakes {
    file: String,
    found: Vec<Mistake>,
    secrets: SecretPlaces,
}

/// Where secrets were found while a configuration was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretPlaces {
    /// One stands in the configuration file itself.
    pub in_file: bool,
    /// Files that hold one each.
    pub files: Vec<PathBuf>,
    /// The file given with `--env-file`, which is another program's.
    pub env_file: Option<PathBuf>,
}

impl Mistakes {
    /// A collection that names places in `file`.
    pub fn new(file: &str, found: Vec<Mistake>) -> Mistakes {
        Mistakes { file: file.to_owned(), found, secrets: SecretPlaces::default() }
    }

    /// The file's name.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Notes a mistake.
    pub fn add(&mut self, origin: &Origin, what: impl Into<String>) {
        self.found.push(Mistake { place: place(&self.file, origin), what: what.into() });
    }

    /// Where secrets are, to be added to.
    pub fn secrets(&mut self) -> &mut SecretPlaces {
        &mut self.secrets
    }

    /// What was found.
    pub fn into_found(self) -> Vec<Mistake> {
        self.found
    }
}

/// A table that is being read: it knows which of its keys were asked for.
#[derive(Debug)]
pub struct Section<'a> {
    path: String,
    origin: &'a Origin,
    entries: &'a [Entry],
    known: Vec<&'static str>,
}

impl<'a> Section<'a> {
    /// The table at `node`, which is called `path` in messages.
    pub fn new(path: impl Into<String>, node: &'a Node, mistakes: &mut Mistakes) -> Section<'a> {
        let path = path.into();
        let entries: &[Entry] = if let Value::Table(entries) = &node.value {
            entries
        } else {
            mistakes.add(&node.origin, format!("{path}: a table is wanted, this is {}", node.value.kind()));
            &[]
        };
        Section { path, origin: &node.origin, entries, known: Vec::new() }
    }

    /// Where the table stands.
    pub fn origin(&self) -> &'a Origin {
        self.origin
    }

    /// The full name of a key, for messages.
    pub fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// All entries, for tables whose keys are names that the user chose.
    pub fn all(&self) -> &'a [Entry] {
        self.entries
    }

    /// The value of `key`, if it is there.
    pub fn node(&mut self, key: &'static str) -> Option<&'a Node> {
        self.known.push(key);
        self.entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node)
    }

    /// A string.
    pub fn string(&mut self, key: &'static str, mistakes: &mut Mistakes) -> Option<(String, &'a Origin)> {
        let node = self.node(key)?;
        if let Value::String(string) = &node.value {
            return Some((string.clone(), &node.origin));
        }
        self.wrong(key, node, "a string", mistakes);
        None
    }

    /// A string that is not repeated where it is something else: a secret of digits is one, too.
    pub fn secret(&mut self, key: &'static str, mistakes: &mut Mistakes) -> Option<(String, &'a Origin)> {
        let node = self.node(key)?;
        if let Value::String(string) = &node.value {
            return Some((string.clone(), &node.origin));
        }
        mistakes.add(&node.origin, format!("{}: a string is wanted, in quotes; this is {}", self.name(key), node.value.kind()));
        None
    }

    /// A whole number within bounds.
    pub fn integer(&mut self, key: &'static str, allowed: std::ops::RangeInclusive<i64>, mistakes: &mut Mistakes) -> Option<i64> {
        let node = self.node(key)?;
        let number = match &node.value {
            Value::Integer(number) => Some(*number),
            Value::String(text) if from_variable(node) => text.trim().parse().ok(),
            _ => None,
        };
        match number {
            Some(number) if allowed.contains(&number) => Some(number),
            _ => {
                let wanted = match (*allowed.start(), *allowed.end()) {
                    (i64::MIN, i64::MAX) => "a whole number".to_owned(),
                    (start, i64::MAX) => format!("a whole number from {start}"),
                    (start, end) => format!("a whole number from {start} to {end}"),
                };
                self.wrong(key, node, &wanted, mistakes);
                None
            }
        }
    }

    /// true or false.
    pub fn boolean(&mut self, key: &'static str, mistakes: &mut Mistakes) -> Option<bool> {
        let node = self.node(key)?;
        match &node.value {
            Value::Boolean(boolean) => Some(*boolean),
            Value::String(text) if from_variable(node) && ["true", "1"].contains(&text.trim()) => Some(true),
            Value::String(text) if from_variable(node) && ["false", "0"].contains(&text.trim()) => Some(false),
            _ => {
                self.wrong(key, node, "true or false", mistakes);
                None
            }
        }
    }

    /// A duration such as "500ms", "10s", "5m", "24h", "30d".
    pub fn duration(&mut self, key: &'static str, mistakes: &mut Mistakes) -> Option<Duration> {
        let node = self.node(key)?;
        if let Value::String(text) = &node.value
            && let Some(duration) = parse_duration(text)
        {
            return Some(duration);
        }
        self.wrong(key, node, "a duration with its unit, such as \"500ms\", \"10s\", \"5m\", \"24h\" or \"30d\"", mistakes);
        None
    }

    /// A duration within bounds.
    pub fn duration_within(
        &mut self,
        key: &'static str,
        allowed: std::ops::RangeInclusive<Duration>,
        mistakes: &mut Mistakes,
    ) -> Option<Duration> {
        let duration = self.duration(key, mistakes)?;
        if allowed.contains(&duration) {
            return Some(duration);
        }
        let node = self.node(key)?;
        let bounds = match *allowed.end() {
            Duration::MAX => format!("{:?} or longer", allowed.start()),
            end => format!("from {:?} to {end:?}", allowed.start()),
        };
        self.wrong(key, node, &format!("a duration {bounds}"), mistakes);
        None
    }

    /// One of a few words.
    pub fn word<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)], mistakes: &mut Mistakes) -> Option<T> {
        let (text, origin) = self.string(key, mistakes)?;
        if let Some((_, word)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*word);
        }
        let allowed = list(words.iter().map(|(word, _)| *word));
        let hint = nearest(&text, words.iter().map(|(word, _)| *word));
        mistakes.add(origin, format!("{}: \"{text}\" is none of {allowed}{hint}", self.name(key)));
        None
    }

    /// One string or a list of strings, each with its place.
    pub fn strings(&mut self, key: &'static str, mistakes: &mut Mistakes) -> Option<Vec<(String, &'a Origin)>> {
        let node = self.node(key)?;
        match &node.value {
            Value::String(text) if from_variable(node) => {
                Some(text.split(',').map(|part| (part.trim().to_owned(), &node.origin)).collect())
            }
            Value::String(text) => Some(vec![(text.clone(), &node.origin)]),
            Value::Array(items) => {
                let mut strings = Vec::with_capacity(items.len());
                for item in items {
                    if let Value::String(text) = &item.value {
                        strings.push((text.clone(), &item.origin));
                    } else {
                        self.wrong(key, item, "a string", mistakes);
                    }
                }
                Some(strings)
            }
            _ => {
                self.wrong(key, node, "a string or a list of strings", mistakes);
                None
            }
        }
    }

    /// The tables of an array of tables.
    pub fn tables(&mut self, key: &'static str, mistakes: &mut Mistakes) -> &'a [Node] {
        match self.node(key) {
            None => &[],
            Some(Node { value: Value::Array(items), .. }) => items,
            Some(node) => {
                self.wrong(key, node, &format!("a list of tables, written [[{}]]", self.name(key)), mistakes);
                &[]
            }
        }
    }

    /// Notes that the value of `key` is not what is wanted.
    pub fn wrong(&self, key: &str, node: &Node, wanted: &str, mistakes: &mut Mistakes) {
        let shown = match &node.value {
            Value::String(text) => format!("\"{}\"", text.escape_debug()),
            Value::Integer(number) => number.to_string(),
            other => other.kind().to_owned(),
        };
        mistakes.add(&node.origin, format!("{}: {wanted} is wanted, this is {shown}", self.name(key)));
    }

    /// Notes every key that nobody asked for, with the nearest known one.
    pub fn finish(self, mistakes: &mut Mistakes) {
        for entry in self.entries {
            if self.known.contains(&entry.key.as_str()) {
                continue;
            }
            let hint = nearest(&entry.key, self.known.iter().copied());
            let hint = if hint.is_empty() { elsewhere(&entry.key) } else { hint };
            let mut known = self.known.clone();
            known.sort_unstable();
            known.dedup();
            let table = if self.path.is_empty() { "the file".to_owned() } else { format!("[{}]", self.path) };
            mistakes.add(
                &entry.origin,
                format!("unknown key \"{}\" in {table}{hint}; known are {}", entry.key, list(known.into_iter())),
            );
        }
    }
}

fn from_variable(node: &Node) -> bool {
    matches!(node.origin, Origin::Variable(_))
}

fn list<'b>(words: impl Iterator<Item = &'b str>) -> String {
    words.collect::<Vec<_>>().join(", ")
}

/// ", did you mean …?" where something is near enough to be meant.
pub fn nearest<'b>(word: &str, known: impl Iterator<Item = &'b str>) -> String {
    const NEAR_ENOUGH: f64 = 0.7;
    known
        .map(|known| (strsim::jaro_winkler(word, known), known))
        .filter(|(likeness, _)| *likeness >= NEAR_ENOUGH)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map_or(String::new(), |(_, known)| format!(", did you mean \"{known}\"?"))
}

/// ", it belongs under …" where another table has a key of that name.
fn elsewhere(key: &str) -> String {
    match keys::tables_with(key) {
        tables if tables.is_empty() => String::new(),
        tables => format!(", it belongs under {}", tables.join(" or ")),
    }
}

/// "500ms", "10s", "5m", "24h", "30d".
pub fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..digits].parse().ok()?;
    let millis = match text[digits..].trim_start() {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(millis).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(parse_duration("2 h"), Some(Duration::from_secs(7200)));
        assert_eq!(parse_duration("30d"), Some(Duration::from_secs(30 * 86_400)));
        for bad in ["", "10", "s", "-1s", "1.5s", "1w", "99999999999999999999s", "18446744073709551615d"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }
}
