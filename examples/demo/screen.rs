//! What the demo shows: a line per alert, aligned, coloured where there is a terminal.

use std::collections::HashSet;
use std::io::IsTerminal as _;
use std::sync::Mutex;

use crate::ledger::Ledger;
use crate::support::receiver::{Event, Receiver};

pub struct Screen {
    colours: bool,
    latencies: Mutex<Vec<f64>>,
    seen: Mutex<HashSet<String>>,
}

impl Screen {
    pub fn new() -> Screen {
        Screen { colours: std::io::stdout().is_terminal(), latencies: Mutex::default(), seen: Mutex::default() }
    }

    pub fn say(&self, text: &str) {
        println!("{text}");
    }

    pub fn heading(&self) {
        println!(
            "{:12}  {:9} {:10} {:6} {:34} {:>9}  {:>9}  channel, event",
            "time", "severity", "", "watch", "key", "count", "ms"
        );
    }

    /// Something that happens to the daemon or the endpoint.
    pub fn event(&self, text: &str) {
        println!("{}", self.paint("1;35", &format!("——— {text}")));
    }

    /// One alert.
    pub fn alert(&self, event: &Event, latency: Option<f64>) {
        let again = !self.seen.lock().expect("no panic").insert(event.text("id"));
        if let Some(latency) = latency.filter(|_| !again) {
            self.latencies.lock().expect("no panic").push(latency);
        }
        let severity = event.text("severity");
        let colour = match severity.as_str() {
            "critical" => "1;31",
            "high" => "31",
            "warning" => "33",
            _ => "32",
        };
        let now = jiff::Zoned::now().strftime("%H:%M:%S%.3f").to_string();
        let count = format!("{} of {}", event.number("count"), event.number("threshold"));
        let ms = latency.map_or("–".to_owned(), |ms| format!("{ms:.1}"));
        let note = if again { "  (a repetition of one that was sent before the kill)" } else { "" };
        println!(
            "{now:12}  {} {:10} {:6} {:34} {count:>9}  {ms:>9}  {}, {}{note}",
            self.paint(colour, &format!("{severity:9}")),
            event.text("transition"),
            event.text("watch"),
            event.data["key"].to_string(),
            event.channels.join(" "),
            event.name
        );
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colours { format!("\u{1b}[{colour}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    pub async fn summary(&self, ledger: &Ledger, receiver: &Receiver, verdict: &Result<(), String>) {
        let (transactions, events, unsettled) = ledger.totals().await;
        let accepted = receiver.accepted();
        let ids: HashSet<String> = accepted.iter().map(|event| event.text("id")).collect();
        let mut latencies = self.latencies.lock().expect("no panic").clone();
        latencies.sort_by(f64::total_cmp);
        let median = latencies.get(latencies.len() / 2).copied().unwrap_or_default();
        let severities: Vec<String> = ["warning", "high", "critical"]
            .into_iter()
            .map(|severity| format!("{} {severity}", accepted.iter().filter(|event| event.text("severity") == severity).count()))
            .collect();
        println!(
            "\n{transactions} transactions, {events} transitions, {} arrived ({}), {} repeated, {unsettled} unsettled, {} bad signatures",
            ids.len(),
            severities.join(", "),
            accepted.len() - ids.len(),
            receiver.refused_signatures(),
        );
        println!("from COMMIT to receipt: median {median:.1} ms (with the outage in it)");
        match verdict {
            Ok(()) => println!(
                "{}",
                self.paint("1;32", "nothing was lost: every crossing that was committed arrived, in order per key")
            ),
            Err(what) => println!("{}", self.paint("1;31", &format!("NOT as promised: {what}"))),
        }
    }
}
