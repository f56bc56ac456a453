//! The first depth: what the configuration says, without asking anybody.

use super::finding::{Findings, Id};
use crate::config::{Config, exposure};
use crate::evaluate::{Policy, Transition};
use crate::event::rule::{On, Rule};
use crate::severity::Severity;
use crate::watch::Watch;

pub(super) fn look(config: &Config, findings: &mut Findings) {
    let (watches, endpoints) = (config.watches.len(), config.endpoints.len());
    findings.ok(Id::ConfigFile, "file", format!("{}: watches: {watches}, endpoints: {endpoints}", config.file));
    look_at_modes(config, findings);
    look_at_listener(config, findings);
    look_at_channels(config, findings);
    for watch in &config.watches {
        for (number, rule) in watch.rules.iter().enumerate() {
            if let Some(why) = never_fires(rule, &watch.policy) {
                findings.warn(
                    Id::RuleNeverFires,
                    &format!("watch {}", watch.name),
                    format!("its publish rule {} ({}) can never fire: {why}", number + 1, rule.event.source()),
                    "correct on of the rule, or what it waits for",
                );
            }
        }
    }
    let used = |name: &String| config.watches.iter().flat_map(|watch| &watch.rules).any(|rule| rule.endpoints.contains(name));
    for endpoint in config.endpoints.iter().filter(|endpoint| !used(&endpoint.name)) {
        findings.info(
            Id::EndpointUnused,
            &format!("endpoint {}", endpoint.name),
            "no rule publishes to it",
            Some("name it in endpoint of a [[watch.publish]], or take it out".to_owned()),
        );
    }
}

/// Files that others may read or change.
fn look_at_modes(config: &Config, findings: &mut Findings) {
    for exposed in exposure::of(config) {
        match exposed.is_borrowed {
            true => findings.info(Id::FileMode, "file", exposed.what, Some(exposed.remedy)),
            false => findings.warn(Id::FileMode, "file", exposed.what, exposed.remedy),
        }
    }
}

/// A token that is shorter is guessed sooner than one likes.
const TOKEN_CHARS_MIN: usize = 16;

/// Who may ask our own listener.
fn look_at_listener(config: &Config, findings: &mut Findings) {
    let Some(http) = &config.http else { return };
    match &http.token {
        None if !http.listen.is_local() => findings.warn(
            Id::HttpOpen,
            "http",
            format!("http.listen is {}, which other machines may reach, and nobody is asked for a token", http.listen),
            "set token_file under [http], or listen on 127.0.0.1 or a Unix socket and let a proxy ask who is there",
        ),
        Some(token) if token.expose().len() < TOKEN_CHARS_MIN => findings.warn(
            Id::HttpOpen,
            "http",
            format!("http.token has fewer than {TOKEN_CHARS_MIN} characters, so it can be guessed"),
            "take what openssl rand -hex 32 prints",
        ),
        _ => {}
    }
}

/// A value's `-` and `_` are not encoded: where one touches a literal, two values could share a channel.
fn look_at_channels(config: &Config, findings: &mut Findings) {
    for watch in &config.watches {
        for template in watch.rules.iter().flat_map(|rule| &rule.channels) {
            if touches(template.source()) {
                findings.warn(
                    Id::ChannelSeparator,
                    &format!("watch {}", watch.name),
                    format!(
                        "in the channel \"{}\" a value touches - or _, so two values may give one channel",
                        template.source()
                    ),
                    "separate values with a dot",
                );
            }
        }
    }
}

fn touches(channel: &str) -> bool {
    channel.contains("}}-")
        || channel.contains("}}_")
        || channel.contains("-{{") && channel.matches("{{").count() > 1
        || channel.contains("}}{{")
}

/// Why no reading whatever makes a rule send; `None` where one can.
fn never_fires(rule: &Rule, policy: &Policy) -> Option<&'static str> {
    why_never(rule.on, policy)
}

fn why_never(on: On, policy: &Policy) -> Option<&'static str> {
    if on.reading() || on.changes() {
        return None;
    }
    let bands = policy.scale.bands;
    // From info it is critical at once, and back.
    let one_band = bands.edge(Severity::Warning) == bands.edge(Severity::Critical);
    let possible = |transition: Transition| match transition {
        Transition::Repeated => policy.repeat.is_some(),
        Transition::Escalated | Transition::Eased => !one_band,
        Transition::Raised | Transition::Resolved => true,
    };
    if Transition::ALL.into_iter().any(|transition| on.transition(transition) && possible(transition)) {
        None
    } else if on.transition(Transition::Repeated) {
        Some("nothing is repeated without repeat on the watch")
    } else {
        Some("all bands begin at the same percentage, so nothing escalates or eases")
    }
}

/// A command line that lets an alert of this watch arrive: a count that is as bad as can be.
pub(super) fn trigger(watch: &Watch) -> String {
    let scale = watch.policy.scale;
    let threshold = watch.threshold.or_else(|| watch.thresholds.first().map(|over| over.threshold));
    let count = match threshold {
        _ if scale.compare.is_low() => 0,
        Some(threshold) => {
            let edge = i64::from(scale.bands.edge(Severity::Critical).unwrap_or(100));
            threshold.saturating_mul(edge).saturating_div(100).saturating_add(1)
        }
        None => 1_000,
    };
    let keys: String = watch.key().iter().map(|column| format!(" --key {}", argument(&format!("{column}=1")))).collect();
    format!("--trigger {count} --watch {}{keys}", argument(&watch.name))
}

/// An argument as a shell reads it.
pub(super) fn argument(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:@%+,".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::severity::{Bands, Compare, Scale};

    fn policy(bands: Bands, repeat: Option<jiff::SignedDuration>) -> Policy {
        let scale = Scale { compare: Compare::AtLeast, bands };
        Policy { scale, hold: jiff::SignedDuration::ZERO, recover: 100, clear_hold: jiff::SignedDuration::ZERO, repeat }
    }

    fn on(words: &[&str]) -> On {
        let of = |word: &str| On::WORDS.iter().find(|(name, _)| *name == word).map(|(_, on)| *on).expect("a word");
        words.iter().map(|word| of(word)).reduce(On::and).expect("some")
    }

    #[test]
    fn rules_that_wait_for_what_cannot_happen_are_found() {
        let (ordinary, one) = (Bands::RISING, Bands::try_new(Compare::AtLeast, 100, 100, 100).expect("in order"));
        assert!(why_never(on(&["repeated"]), &policy(ordinary, None)).is_some_and(|why| why.contains("repeat")));
        assert_eq!(why_never(on(&["repeated"]), &policy(ordinary, Some(jiff::SignedDuration::from_secs(60)))), None);
        assert_eq!(why_never(on(&["repeated", "raised"]), &policy(ordinary, None)), None);
        assert!(why_never(on(&["escalated", "eased"]), &policy(one, None)).is_some_and(|why| why.contains("bands")));
        assert_eq!(why_never(on(&["escalated"]), &policy(ordinary, None)), None);
        assert_eq!(why_never(on(&["reading"]), &policy(one, None)), None);
        assert_eq!(why_never(on(&["insert"]), &policy(one, None)), None);
    }

    #[test]
    fn channels_whose_values_touch_are_found() {
        for bad in ["a-{{ x }}-{{ y }}", "{{ x }}_a", "{{ x }}{{ y }}", "{{ x }}-a"] {
            assert!(touches(bad), "{bad}");
        }
        for good in ["private-{{ x }}", "a.{{ x }}.{{ y }}", "a"] {
            assert!(!touches(good), "{good}");
        }
    }

    #[test]
    fn arguments_can_be_pasted() {
        assert_eq!(argument("tenant_id=1"), "tenant_id=1");
        assert_eq!(argument("it's; rm"), "'it'\\''s; rm'");
    }
}
