//! The screen: aligned columns, colours and bars where there is a terminal, and nothing that could steer it.
//!
//! Pure: what was seen, the time and the terminal in, lines out.

use jiff::Timestamp;

use super::Seen;
use super::worst::Worst;
use crate::cli::plain;
use crate::cli::terminal::{Colour, Terminal, columns_of, cut};
use crate::severity::{Scale, Severity};
use crate::status::{EndpointStatus, WatchStatus};

/// How many columns a bar takes.
const BAR: usize = 20;
/// What is shown of a name at most: the rest of its line matters, too.
const NAME_MAX: usize = 24;

/// Everything, line by line, each no wider than the terminal.
pub(super) fn lines(seen: &Seen, now: Timestamp, terminal: Terminal) -> Vec<String> {
    let screen = Screen { now, terminal };
    let mut lines = screen.instances(seen);
    lines.push(screen.database(seen));
    lines.push(String::new());
    lines.extend(screen.watches(seen));
    lines.push(String::new());
    lines.extend(screen.endpoints(&seen.status.endpoints));
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines.into_iter().map(|line| cut(line.trim_end(), terminal.width)).collect()
}

struct Screen {
    now: Timestamp,
    terminal: Terminal,
}

impl Screen {
    fn paint(&self, colour: Colour, text: &str) -> String {
        self.terminal.paint(colour, text)
    }

    fn faint(&self, text: &str) -> String {
        self.paint(Colour::Faint, text)
    }

    fn instances(&self, seen: &Seen) -> Vec<String> {
        if seen.status.instances.is_empty() {
            let what = self.paint(Colour::Critical, "no live daemon");
            return vec![format!("{what}: start items-listen; until then the journal grows")];
        }
        let ready = if seen.status.ready { self.paint(Colour::Good, "ready") } else { self.paint(Colour::Warning, "not ready") };
        let line = |instance: &crate::status::Instance| {
            format!(
                "{ready}: {} pid {}, version {}  {}",
                plain(&instance.host),
                instance.pid,
                plain(&instance.version),
                self.faint(&format!("config {}, beat {}", plain(&instance.config_hash), self.ago(instance.beat_at)))
            )
        };
        seen.status.instances.iter().map(line).collect()
    }

    fn database(&self, seen: &Seen) -> String {
        let database = &seen.status.database;
        format!(
            "database: doorbell {}, {} journal rows{}",
            database.doorbell.as_deref().map_or("–".to_owned(), plain),
            database.journal_rows,
            database.listen_heartbeat_at.map_or(String::new(), |at| format!(", heartbeat {}", self.ago(at)))
        )
    }

    fn watches(&self, seen: &Seen) -> Vec<String> {
        let watches = &seen.status.watches;
        let width = width(watches.iter().map(|watch| watch.name.as_str()));
        let keys = watches.iter().map(|watch| watch.keys.to_string().len()).max().unwrap_or(0);
        let mut lines = Vec::new();
        for watch in watches {
            lines.push(self.watch(watch, width, keys));
            if let Some(error) = &watch.error {
                lines.push(format!("          {}", self.paint(Colour::Critical, &format!("degraded: {}", plain(error)))));
            }
            let worst: Vec<&Worst> = seen.worst.iter().filter(|worst| worst.watch == watch.name).collect();
            lines.extend(self.worst(&worst));
        }
        lines
    }

    fn watch(&self, watch: &WatchStatus, width: usize, keys: usize) -> String {
        let open = &watch.open;
        let count = |count: i64, word: &str, colour: Colour| {
            let text = format!("{count} {word}");
            if count > 0 { self.paint(colour, &text) } else { self.faint(&text) }
        };
        let last = watch.last_transition_at.map_or("never".to_owned(), |at| self.ago(at));
        format!(
            "watch     {}  {:6}  {:>keys$} keys  {}  {}  {}  {}",
            self.paint(Colour::Strong, &padded(&watch.name, width)),
            plain(&watch.source),
            watch.keys,
            count(open.warning, "warning", Colour::Warning),
            count(open.high, "high", Colour::High),
            count(open.critical, "critical", Colour::Critical),
            self.faint(&format!("last transition {last}")),
        )
    }

    fn worst(&self, all: &[&Worst]) -> Vec<String> {
        let width = width(all.iter().map(|worst| worst.key.as_str()));
        let of = |worst: &Worst| match worst.threshold {
            Some(threshold) => format!("{} of {threshold}", worst.count),
            None => format!("{}, no threshold", worst.count),
        };
        let counts = all.iter().map(|worst| of(worst).chars().count()).max().unwrap_or(0);
        let line = |worst: &&Worst| {
            let percent = worst.percent.map_or(String::new(), |percent| format!("{percent} %"));
            let bar = if self.terminal.interactive { format!("{}  ", self.bar(worst)) } else { String::new() };
            let text = format!("{:>counts$}  {percent:>7}  {}", of(worst), worst.severity);
            format!(
                "          {}{}{bar}{}",
                padded(&worst.key, width),
                if width > 0 { "  " } else { "" },
                self.by(worst.severity, &text)
            )
        };
        all.iter().map(line).collect()
    }

    fn by(&self, severity: Severity, text: &str) -> String {
        match severity {
            Severity::Info => text.to_owned(),
            Severity::Warning => self.paint(Colour::Warning, text),
            Severity::High => self.paint(Colour::High, text),
            Severity::Critical => self.paint(Colour::Critical, text),
        }
    }

    /// A bar whose cells each have the colour of their band: filled up to the count.
    fn bar(&self, worst: &Worst) -> String {
        let filled = filled(worst);
        let cell = |cell: usize| {
            // The cell in which the count ends may hold the edge of a band, too: it is the count's own.
            let band = if cell + 1 == filled { worst.severity } else { band(worst.scale, cell) };
            (band, cell < filled)
        };
        let mut cells: Vec<(Severity, bool)> = (0..BAR).map(cell).collect();
        let mut bar = String::new();
        // A colour is said once for all cells in a row that have it.
        while let Some(first) = cells.first().copied() {
            let run = cells.iter().take_while(|cell| **cell == first).count();
            let blocks = if first.1 { "█" } else { "░" }.repeat(run);
            let colour = match first.0 {
                Severity::Info => Colour::Good,
                Severity::Warning => Colour::Warning,
                Severity::High => Colour::High,
                Severity::Critical => Colour::Critical,
            };
            bar.push_str(&self.paint(colour, &blocks));
            cells.drain(..run);
        }
        bar
    }

    fn endpoints(&self, endpoints: &[EndpointStatus]) -> Vec<String> {
        let width = width(endpoints.iter().map(|endpoint| endpoint.name.as_str()));
        let mut lines = Vec::new();
        for endpoint in endpoints {
            lines.push(self.endpoint(endpoint, width));
            if let Some(error) = endpoint.last_error.as_ref().filter(|_| endpoint.state != "ok") {
                lines.push(format!("          {}", plain(error)));
            }
        }
        lines
    }

    fn endpoint(&self, endpoint: &EndpointStatus, width: usize) -> String {
        let colour = match endpoint.state.as_str() {
            "ok" => Colour::Good,
            "backing_off" => Colour::Warning,
            _ => Colour::Critical,
        };
        let until =
            endpoint.until.filter(|_| endpoint.state != "ok").map_or(String::new(), |at| format!(" until {}", self.until(at)));
        let reason = endpoint.reason.as_deref().map_or(String::new(), |reason| format!(" ({})", plain(reason)));
        let oldest = endpoint.oldest_pending_at.map_or(String::new(), |at| format!(", oldest {}", self.ago(at)));
        let success = endpoint.last_success_at.map_or("never".to_owned(), |at| self.ago(at));
        let dead = format!("{} dead", endpoint.dead);
        format!(
            "endpoint  {}  {}{until}   {} pending{oldest}   {}   {}",
            self.paint(Colour::Strong, &padded(&endpoint.name, width)),
            self.paint(colour, &format!("{}{reason}", plain(&endpoint.state))),
            endpoint.pending,
            if endpoint.dead > 0 { self.paint(Colour::Critical, &dead) } else { dead },
            self.faint(&format!("last success {success}")),
        )
    }

    fn ago(&self, at: Timestamp) -> String {
        format!("{} ago", span(self.now.duration_since(at).as_secs().max(0)))
    }

    fn until(&self, at: Timestamp) -> String {
        match at.duration_since(self.now).as_secs() {
            left if left > 0 => format!("in {}", span(left)),
            _ => "now".to_owned(),
        }
    }
}

/// How many cells of a bar are filled: up to that in which the count is. Its whole length is a sixth more than where the last
/// band begins; where too little is bad, than where the first does.
fn filled(worst: &Worst) -> usize {
    let Some(percent) = worst.percent.filter(|_| worst.count > 0) else { return 0 };
    let cells = i128::try_from(BAR).unwrap_or(1);
    let full = i128::from(percent.max(0)) * cells / i128::from(whole(worst.scale));
    usize::try_from(full).unwrap_or(BAR).saturating_add(1).min(BAR)
}

/// The percentage that a full bar stands for.
fn whole(scale: Scale) -> i64 {
    let edge = |severity| i64::from(scale.bands.edge(severity).unwrap_or(100));
    (edge(Severity::Warning).max(edge(Severity::Critical)) * 7 / 6).max(1)
}

/// The band of a cell: the worst of those that it holds a part of.
fn band(scale: Scale, cell: usize) -> Severity {
    let cell = i64::try_from(cell).unwrap_or(0);
    let cells = i64::try_from(BAR).unwrap_or(1);
    let reaches = |severity: &Severity| {
        let edge = i64::from(scale.bands.edge(*severity).unwrap_or(100)) * cells;
        if scale.compare.is_low() { cell * whole(scale) < edge } else { (cell + 1) * whole(scale) > edge }
    };
    [Severity::Critical, Severity::High, Severity::Warning].into_iter().find(reaches).unwrap_or(Severity::Info)
}

fn span(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

fn columns(text: &str) -> usize {
    text.chars().map(columns_of).sum()
}

fn width<'a>(names: impl Iterator<Item = &'a str>) -> usize {
    names.map(|name| columns(&plain(name))).max().unwrap_or(0).min(NAME_MAX)
}

/// A name in exactly so many columns.
fn padded(name: &str, width: usize) -> String {
    let name = cut(&plain(name), Some(width));
    let missing = width.saturating_sub(columns(&name));
    format!("{name}{}", " ".repeat(missing))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::severity::{Bands, Compare};

    fn worst(compare: Compare, count: i64, percent: i64) -> Worst {
        let scale = Scale { compare, bands: Bands::default_for(compare) };
        let severity = scale.classify(count, Some(100)).expect("a threshold");
        Worst { watch: "w".into(), key: String::new(), count, threshold: Some(100), percent: Some(percent), severity, scale }
    }

    /// The bands of a bar's cells, and how many of them are filled.
    fn bar(compare: Compare, percent: i64) -> (String, usize) {
        let worst = worst(compare, percent, percent);
        let bands: String = (0..BAR).map(|cell| &band(worst.scale, cell).as_str()[..1]).collect();
        (bands, filled(&worst))
    }

    #[test]
    fn a_bar_shows_the_bands_and_the_count_in_its_own() {
        assert_eq!(bar(Compare::AtLeast, 0), ("iiiiiiiiiiiwwhhhhccc".into(), 0));
        assert_eq!(bar(Compare::AtLeast, 90).1, 11);
        assert_eq!(bar(Compare::AtLeast, i64::MAX).1, BAR);
        let (bands, filled) = bar(Compare::AtMost, 100);
        assert_eq!((bands.as_str(), filled), ("cccchhhhhwwwwwwwwwii", 18));
        assert_eq!(bar(Compare::AtMost, 1).1, 1, "a little is not nothing");
    }

    #[test]
    fn names_take_the_columns_that_they_are_given() {
        assert_eq!(padded("ab", 4), "ab  ");
        assert_eq!(padded("abcdef", 4), "abc…");
        assert_eq!(padded("a\u{1b}[31m\u{202e}b", 21), "a\\u{1b}[31m\\u{202e}b ");
        assert_eq!(padded("漢字", 5), "漢字 ");
    }
}
