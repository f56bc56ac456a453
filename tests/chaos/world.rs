//! Everything there is in a run: the server, the proxies, the endpoints, the daemons; and what was done to them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use items_listen::chaos::POINTS;
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use tokio_postgres::Client;

use crate::endpoint::{Answer, Endpoint};
use crate::oracle::Told;
use crate::shop;
use crate::support::daemon::Daemon;
use crate::support::postgres::{Database, Server, connect};
use crate::support::proxy::Proxy;
use crate::support::receiver::{APP_ID, KEY, SECRET};

/// What was done, and when.
#[derive(Clone, Default)]
pub struct Faults {
    done: Arc<Mutex<Vec<(Instant, &'static str)>>>,
    counts: Arc<Mutex<BTreeMap<&'static str, u64>>>,
}

impl Faults {
    pub fn note(&self, kind: &'static str) {
        self.done.lock().expect("no panic").push((Instant::now(), kind));
        self.count(kind);
    }

    /// Counts something that excuses nothing.
    pub fn count(&self, kind: &'static str) {
        *self.counts.lock().expect("no panic").entry(kind).or_default() += 1;
    }

    /// How many there were between these two times; a fault begins to matter before what it causes is seen, and what it
    /// causes comes later.
    pub fn between(&self, from: Instant, to: Instant) -> usize {
        // A request that is under way when the fault comes was sent before it.
        const BEFORE: Duration = Duration::from_secs(2);
        let from = from.checked_sub(BEFORE).unwrap_or(from);
        self.done.lock().expect("no panic").iter().filter(|(at, _)| *at >= from && *at <= to).count()
    }

    /// Whether there was one of a kind within the last ten seconds.
    pub fn lately(&self, kind: &str) -> bool {
        self.done.lock().expect("no panic").iter().any(|(at, of)| *of == kind && at.elapsed() < Duration::from_secs(10))
    }

    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.counts.lock().expect("no panic").clone()
    }

    /// Forgets when, not how many.
    pub fn forget(&self) {
        self.done.lock().expect("no panic").clear();
    }
}

/// What a run has seen.
#[derive(Default)]
pub struct Tally {
    pub alerts: usize,
    pub duplicates: usize,
    pub probes: usize,
    pub slowest_probe: Duration,
    pub slowest_convergence: Duration,
    pub points: BTreeMap<String, u64>,
    pub reasons: BTreeMap<String, u64>,
    pub answers: BTreeMap<Answer, u64>,
    pub resident_kib: u64,
    pub committed: Arc<AtomicU64>,
}

impl Tally {
    /// How it goes.
    pub fn line(&self) -> String {
        format!(
            "{} transactions, {} alerts, {} duplicates, {} probes (slowest {} ms), slowest convergence {} ms, {} of {} points",
            self.committed.load(Ordering::SeqCst),
            self.alerts,
            self.duplicates,
            self.probes,
            self.slowest_probe.as_millis(),
            self.slowest_convergence.as_millis(),
            self.points.len(),
            POINTS.len(),
        )
    }

    /// The figures of a run.
    pub fn report(&self, faults: &BTreeMap<&str, u64>) -> String {
        format!(
            "faults: {faults:?}\nkilled at: {:?}\nanswers: {:?}\nreasons: {:?}\nlargest resident set: {} KiB\n{}",
            self.points,
            self.answers,
            self.reasons,
            self.resident_kib,
            self.line()
        )
    }
}

/// The world.
pub struct World {
    pub server: Server,
    pub client: Client,
    pub name: String,
    pub database: Proxy,
    /// main and side: each in order, and neither waits for the other.
    pub endpoints: [Endpoint; 2],
    pub proxies: [Proxy; 2],
    /// It never takes anything.
    pub void: Endpoint,
    pub daemons: Vec<Daemon>,
    pub faults: Faults,
    pub tally: Tally,
    pub away: Arc<AtomicBool>,
    pub told: [HashMap<i32, Told>; 2],
    /// Points that are still to be killed at, in an order of the seed's.
    deck: Vec<&'static str>,
    pub mutation: Option<String>,
    partitions: i32,
}

/// At which point a kill tells a build that is wrong in this way from a right one.
fn shows_at(mutation: &str) -> Option<&'static str> {
    match mutation {
        "StateOutsideTransaction" => Some("fold.committed"),
        "SettleBeforeSending" => Some("send.before"),
        _ => None,
    }
}

impl World {
    pub async fn new(mutation: Option<String>, random: &mut StdRng) -> World {
        let server = Server::start(&["max_connections = 100"]);
        let Database { name, client, .. } = server.database().await;
        client.batch_execute(shop::SCHEMA).await.expect("the shop's tables");
        let faults = Faults::default();
        let endpoints = [Endpoint::start(&faults, random).await, Endpoint::start(&faults, random).await];
        let void = Endpoint::start(&Faults::default(), random).await;
        void.mood(crate::endpoint::Mood::Down);
        let proxies = [Proxy::start(endpoints[0].port).await, Proxy::start(endpoints[1].port).await];
        let database = Proxy::start(server.port).await;
        World {
            server,
            client,
            name,
            database,
            endpoints,
            proxies,
            void,
            daemons: Vec::new(),
            faults,
            tally: Tally::default(),
            away: Arc::default(),
            told: [HashMap::new(), HashMap::new()],
            deck: Vec::new(),
            mutation,
            partitions: 1_000,
        }
    }

    pub fn url(&self) -> String {
        self.server.url(&self.name)
    }

    /// The configuration of a daemon.
    fn config(&self, poll: &str) -> String {
        let endpoint = |name: &str, port: u16, more: &str| {
            format!(
                "[endpoints.{name}]\nurl = \"http://127.0.0.1:{port}\"\napp_id = \"{APP_ID}\"\nkey = \"{KEY}\"\nsecret = \"{SECRET}\"\n\
                 timeout = \"1s\"\nretry = {{ initial = \"50ms\", max = \"1s\"{more} }}\n"
            )
        };
        let unsendable = format!("{{{{ 'x{}' if key.k == {} else 'void' }}}}", "y".repeat(200), shop::UNSENDABLE);
        format!(
            "[database]\nurl = \"postgres://postgres@127.0.0.1:{}/{}\"\npoll = \"{poll}\"\n{}{}{}\
             [[watch]]\nname = \"stock\"\ntable = \"stock\"\nwhere = \"open\"\nkey = [\"k\"]\nthreshold = 20\n\
             [[watch.publish]]\nchannels = [\"stock\"]\nevent = \"stock.changed\"\nendpoint = [\"main\", \"side\"]\n\
             [[watch.publish]]\nchannels = [\"{unsendable}\"]\nevent = \"stock.refresh\"\nendpoint = \"void\"\ndata = \"thin\"\n",
            self.database.port,
            self.name,
            endpoint("main", self.proxies[0].port, ""),
            endpoint("side", self.proxies[1].port, ""),
            endpoint("void", self.void.port, ", give_up_after = \"2s\""),
        )
    }

    /// Ends the daemons there are and starts so many.
    pub async fn daemons(&mut self, count: usize, poll: &str) {
        self.daemons.clear();
        for _ in 0..count {
            let mut daemon = Daemon::new(env!("CARGO_BIN_EXE_items-listen"), &self.config(poll));
            daemon.environment = self.environment(None);
            daemon.spawn();
            self.daemons.push(daemon);
        }
        for daemon in &self.daemons {
            daemon.ready().await;
        }
    }

    fn environment(&self, failpoint: Option<String>) -> Vec<(String, String)> {
        let mut environment = vec![("ITEMS_LISTEN_LOG".to_owned(), "info".to_owned())];
        environment.extend(self.mutation.clone().map(|mutation| ("CHAOS_MUTATION".to_owned(), mutation)));
        environment.extend(failpoint.map(|failpoint| ("FAILPOINTS".to_owned(), failpoint)));
        environment
    }

    /// The next failpoint: each once before any comes again.
    fn failpoint(&mut self, random: &mut StdRng) -> (&'static str, String) {
        let missed: Vec<&str> = POINTS.into_iter().filter(|point| !self.tally.points.contains_key(*point)).collect();
        if self.deck.is_empty() {
            self.deck = POINTS.to_vec();
            self.deck.shuffle(random);
        }
        // What was never hit is tried more often than its turn comes.
        let chosen = missed.choose(random).copied().filter(|_| random.random());
        // A build that is wrong shows it soonest where its step is cut in two.
        let chosen = self.mutation.as_deref().and_then(shows_at).filter(|_| random.random()).or(chosen);
        let point = chosen.or_else(|| self.deck.pop()).unwrap_or("fold.taken");
        // Some are passed once in a life, others a hundred times a second.
        let often = ["fold", "send", "settle"].iter().any(|kind| point.starts_with(kind));
        let known = self.tally.points.contains_key(point);
        let passed = if often && known { random.random_range(0..25) } else { 0 };
        (point, if passed == 0 { format!("{point}=return") } else { format!("{point}={passed}*off->return") })
    }

    /// kill -9, and another in its place, at times with a failpoint, at which it is killed again.
    pub fn kill(&mut self, index: usize, random: &mut StdRng) {
        self.faults.note("kill");
        let failpoint = random.random();
        self.respawn(index, failpoint, random);
    }

    /// Starts those anew that would be killed at a point some time; the others have to find their way back themselves.
    pub fn disarm(&mut self, random: &mut StdRng) {
        for index in 0..self.daemons.len() {
            if self.daemons[index].has_ended() || self.daemons[index].environment.iter().any(|(name, _)| name == "FAILPOINTS") {
                self.faults.note("kill");
                self.respawn(index, false, random);
            }
        }
    }

    /// Starts a daemon anew, whatever it was doing.
    pub fn respawn(&mut self, index: usize, failpoint: bool, random: &mut StdRng) -> Option<&'static str> {
        self.count_point(index);
        let failpoint = failpoint.then(|| self.failpoint(random));
        let (point, action) = failpoint.unzip();
        let environment = self.environment(action);
        let daemon = &mut self.daemons[index];
        daemon.kill();
        daemon.environment = environment;
        daemon.spawn();
        point
    }

    /// Starts those anew that a failpoint has killed.
    pub fn revive(&mut self, failpoints: bool, random: &mut StdRng) {
        for index in 0..self.daemons.len() {
            if self.daemons[index].has_ended() {
                self.faults.note("kill at a point");
                self.respawn(index, failpoints, random);
            }
        }
    }

    /// Another configuration, which is the same: no reason for anything to be lost, or to come twice.
    pub fn reload(&self, index: usize) {
        if self.daemons[index].address().is_some() {
            self.faults.count("reload");
            self.daemons[index].signal("HUP");
        }
    }

    /// Counts the point at which a daemon was killed, if it was.
    fn count_point(&mut self, index: usize) {
        let point = self.daemons[index].log().iter().find_map(|line| line["failpoint"].as_str().map(str::to_owned));
        if let Some(point) = point {
            *self.tally.points.entry(point).or_default() += 1;
        }
    }

    /// Notes how large the living are.
    pub fn weigh(&mut self) {
        for daemon in &self.daemons {
            let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap_or_default();
            let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or_default();
            let kib = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0);
            self.tally.resident_kib = self.tally.resident_kib.max(kib);
        }
    }

    /// Restarts the server.
    pub async fn restart_server(&mut self, mode: &str) {
        self.faults.note(if mode == "fast" { "database restarted, fast" } else { "database restarted, immediate" });
        self.away.store(true, Ordering::SeqCst);
        self.server.halt(mode);
        self.server.boot();
        self.client = connect(&self.url()).await;
        self.away.store(false, Ordering::SeqCst);
    }

    /// A new partition: attaching one runs no trigger, so the daemon completes its triggers and counts anew.
    pub async fn partition(&mut self) -> Result<(), String> {
        self.partitions += 1;
        let sql =
            format!("SET lock_timeout = '2s'; CREATE TABLE stock_{0} PARTITION OF stock FOR VALUES IN ({0})", self.partitions);
        self.faults.note("partition attached");
        match self.client.batch_execute(&sql).await {
            Err(error) if error.code().is_none_or(|code| code.code() != "55P03") => Err(format!("a new partition: {error:?}")),
            _ => Ok(()),
        }
    }

    /// What should have been hit, and was not.
    pub fn missed(&mut self) -> Vec<String> {
        let hits = self.endpoints.each_ref().map(Endpoint::hits);
        self.tally.answers.clear();
        for (answer, count) in hits.into_iter().flatten() {
            *self.tally.answers.entry(answer).or_default() += count;
        }
        let points = POINTS.iter().filter(|point| !self.tally.points.contains_key(**point)).map(|point| format!("point {point}"));
        let answers = Answer::to_be_hit().filter(|answer| !self.tally.answers.contains_key(answer));
        let refusing = Answer::REFUSING.iter().any(|answer| self.tally.answers.contains_key(answer));
        let reasons = ["expired", "unsendable", "superseded", "rejected"];
        let reasons =
            reasons.iter().filter(|reason| !self.tally.reasons.contains_key(**reason)).map(|reason| format!("reason {reason}"));
        let mut missed: Vec<String> = points.chain(answers.map(|answer| format!("answer {answer:?}"))).chain(reasons).collect();
        if !refusing {
            missed.push("an answer that pauses".to_owned());
        }
        missed
    }

    /// What helps to understand a violation.
    pub async fn dump(&mut self) {
        for daemon in &self.daemons {
            println!("--- the end of a daemon's log");
            let log = daemon.log();
            for line in log.iter().skip(log.len().saturating_sub(25)) {
                println!("{line}");
            }
        }
        let sql = "SELECT id, endpoint, key, state, attempts, reason, status, lease IS NOT NULL, due_at - now() > '0' FROM items_listen.delivery
                   WHERE state = 'pending' ORDER BY id LIMIT 20";
        println!("--- pending deliveries");
        for row in self.client.query(sql, &[]).await.unwrap_or_default() {
            println!(
                "{} {} {} {} attempts {} {:?} {:?} leased {} later {:?}",
                row.get::<_, i64>(0),
                row.get::<_, String>(1),
                row.get::<_, String>(2),
                row.get::<_, String>(3),
                row.get::<_, i32>(4),
                row.get::<_, Option<String>>(5),
                row.get::<_, Option<i32>>(6),
                row.get::<_, Option<bool>>(7).unwrap_or(false),
                row.get::<_, Option<bool>>(8)
            );
        }
        let state = "SELECT (SELECT count(*) FROM items_listen.journal), (SELECT count(*) FROM items_listen.marker),
                            (SELECT count(*) FROM items_listen.count WHERE dirty > 0)";
        if let Ok(row) = self.client.query_one(state, &[]).await {
            println!("--- journal {}, markers {}, dirty {}", row.get::<_, i64>(0), row.get::<_, i64>(1), row.get::<_, i64>(2));
        }
    }

    /// The events that a key has in the database, though an endpoint never saw them, must be dead with a reason.
    pub async fn unaccounted(&self, endpoint: usize) -> Vec<String> {
        let name = ["main", "side"][endpoint];
        let seen: HashSet<String> = self.endpoints[endpoint]
            .arrivals()
            .into_iter()
            .filter(|arrival| arrival.published)
            .map(|arrival| arrival.id)
            .collect();
        let sql =
            format!("SELECT event_id::text, state, coalesce(reason, '') FROM items_listen.delivery WHERE endpoint = '{name}'");
        let rows = self.client.query(sql.as_str(), &[]).await.expect("deliveries");
        rows.iter()
            .filter(|row| {
                !seen.contains(&row.get::<_, String>(0)) && (row.get::<_, &str>(1), row.get::<_, &str>(2)) != ("dead", "rejected")
            })
            .map(|row| {
                format!(
                    "{name}: {} is {} {}, and was never published",
                    row.get::<_, String>(0),
                    row.get::<_, String>(1),
                    row.get::<_, String>(2)
                )
            })
            .collect()
    }
}
