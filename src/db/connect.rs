//! Connecting: over our own sockets, to the first host that is what is wanted.

use std::time::Duration;

use tokio_postgres::config::{Host, TargetSessionAttrs};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, Connection, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::socket::Socket;

/// A connection that somebody has to drive.
pub type Driver = Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>;

/// Connects to the first host that answers and is of the kind that is wanted.
pub async fn open(
    config: &Config,
    tls: &MakeRustlsConnect,
    patience: Option<Duration>,
) -> Result<(Client, Driver), tokio_postgres::Error> {
    let hosts = config.get_hosts().len().max(config.get_hostaddrs().len()).max(1);
    let mut index = 0;
    loop {
        let socket = Socket::connect(config, index, patience).await;
        let connected = match config.connect_raw(socket, tls_for(config, tls, index)).await {
            Ok((client, driver)) => of_the_kind(config, client, driver).await,
            Err(error) => Err(Some(error)),
        };
        index += 1;
        match connected {
            Ok(connected) => return Ok(connected),
            Err(Some(error)) if index == hosts => return Err(error),
            // Of the wrong kind: the last one there is is taken all the same, and says itself what it cannot do.
            Err(None) if index == hosts => {
                let socket = Socket::connect(config, index - 1, patience).await;
                return config.connect_raw(socket, tls_for(config, tls, index - 1)).await;
            }
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

fn tls_for(config: &Config, tls: &MakeRustlsConnect, index: usize) -> <MakeRustlsConnect as MakeTlsConnect<Socket>>::TlsConnect {
    let host = match config.get_hosts().get(index) {
        Some(Host::Tcp(host)) => host.as_str(),
        // There is no TLS over a Unix socket.
        Some(Host::Unix(_)) | None => "",
    };
    let Ok(connect) = MakeTlsConnect::<Socket>::make_tls_connect(&mut tls.clone(), host);
    connect
}
