//! Connecting: over our own sockets, to the first host that is what is wanted.

use std::time::Duration;

use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, Connection, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::authentication::{Guard, Policy};
use super::patience::{Patient, PatientTls};
use super::socket::Socket;
use super::tls::{self, Tls};

type Plain = Patient<Socket>;

/// A connection that somebody has to drive.
pub type Driver = Connection<Plain, Patient<<MakeRustlsConnect as MakeTlsConnect<Plain>>::Stream>>;

/// Connects to the first host that answers and is of the kind that is wanted.
pub async fn open(config: &Config, tls: &Tls, patience: Option<Duration>) -> Result<(Client, Driver), tokio_postgres::Error> {
    let hosts = config.get_hosts().len().max(config.get_hostaddrs().len()).max(1);
    let mut index = 0;
    loop {
        let connected = match Box::pin(raw(config, tls, index, patience)).await {
            Ok((client, driver)) => of_the_kind(config, client, driver).await,
            Err(error) => Err(Some(error)),
        };
        index += 1;
        match connected {
            Ok(connected) => return Ok(connected),
            Err(Some(error)) if index == hosts => return Err(error),
            // Of the wrong kind: the last one there is is taken all the same, and says itself what it cannot do.
            Err(None) if index == hosts => return Box::pin(raw(config, tls, index - 1, patience)).await,
            Err(_) => {}
        }
    }
}

/// Whether it is what `target_session_attrs` asks for.
async fn of_the_kind(
    config: &Config,
    client: Client,
    mut driver: Driver,
) -> Result<(Client, Driver), Option<tokio_postgres::Error>> {
    let wanted = match config.get_target_session_attrs() {
        TargetSessionAttrs::ReadWrite => "off",
        TargetSessionAttrs::ReadOnly => "on",
        _ => return Ok((client, driver)),
    };
    let asked = tokio::select! {
        asked = client.simple_query("SHOW transaction_read_only") => asked.map_err(Some)?,
        ended = &mut driver => return Err(ended.err()),
    };
    let is = asked.iter().any(|message| matches!(message, SimpleQueryMessage::Row(row) if row.get(0) == Some(wanted)));
    if is { Ok((client, driver)) } else { Err(None) }
}

/// Connects to one host.
async fn raw(
    config: &Config,
    tls: &Tls,
    index: usize,
    patience: Option<Duration>,
) -> Result<(Client, Driver), tokio_postgres::Error> {
    let mut config = config.clone();
    let host = match config.get_hosts().get(index) {
        Some(Host::Tcp(host)) => host.clone(),
        // There is no TLS over a Unix socket, whatever is asked for: as with libpq.
        Some(Host::Unix(_)) | None => {
            config.ssl_mode(SslMode::Disable);
            String::new()
        }
    };
    let (socket, mut connector) = match tls.connector().await {
        Ok(connector) => (Socket::connect(&config, index).await, connector),
        // Nothing is connected, and nothing sent.
        Err(error) => (Socket::Failed(Some(error)), tls::none()),
    };
    let policy = Policy { methods: tls.settings().methods.clone(), is_exposed: socket.leaves_this_machine() };
    let Ok(connect) = MakeTlsConnect::<Plain>::make_tls_connect(&mut connector, &host);
    let socket = Patient::new(socket, patience).guarded(Guard::new(policy.clone(), false));
    config.connect_raw(socket, PatientTls { tls: connect, patience, guard: Guard::new(policy, true) }).await
}
