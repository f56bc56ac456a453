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

/// Every host needs a name that TLS is asked for and verified by, and a port. tokio-postgres looks at this where it connects
/// itself; [`open`] does not.
///
/// # Errors
/// What there is too little or too much of.
pub fn refuse_unpaired(config: &Config) -> Result<(), String> {
    let (hosts, addresses, ports) = (config.get_hosts(), config.get_hostaddrs().len(), config.get_ports().len());
    match (hosts.len(), addresses) {
        (0, 0) => return Err("a host is missing".to_owned()),
        (0, _) => {
            return Err("hostaddr without host: host is the name that the server is verified by, hostaddr only where to \
                        connect; write the address as host"
                .to_owned());
        }
        (names, addresses) if addresses != 0 && addresses != names => {
            return Err(format!("{names} host and {addresses} hostaddr: each host wants its own hostaddr, or none has one"));
        }
        (names, _) if ports > 1 && ports != names => {
            return Err(format!("{names} host and {ports} port: each host wants its own port, or one port is for all"));
        }
        _ => {}
    }
    if addresses != 0 && hosts.iter().any(|host| matches!(host, Host::Unix(_))) {
        return Err(
            "hostaddr goes with the name of a host, and not with a directory of Unix sockets: leave one of them out".to_owned()
        );
    }
    Ok(())
}

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
    let (socket, mut connector) = match tls.connector().await {
        Ok(connector) => (Socket::connect(&config, index).await, connector),
        // Nothing is connected, and nothing sent.
        Err(error) => (Socket::Failed(Some(error)), tls::none()),
    };
    let (socket, host) = named(socket, config.get_hosts().get(index));
    // There is no TLS over a Unix socket, whatever is asked for: as with libpq. What counts is what was connected.
    if matches!(socket, Socket::Unix(_)) {
        config.ssl_mode(SslMode::Disable);
    }
    let policy = Policy { methods: tls.settings().methods.clone(), is_exposed: socket.leaves_this_machine() };
    let Ok(connect) = MakeTlsConnect::<Plain>::make_tls_connect(&mut connector, &host);
    let socket = Patient::new(socket, patience).guarded(Guard::new(policy.clone(), false));
    config.connect_raw(socket, PatientTls { tls: connect, patience, guard: Guard::new(policy, true) }).await
}

/// A socket with the name that its server is verified by. Over TCP there is none without one: connection strings without
/// it are refused where they are read, and nothing is sent if one came here all the same.
fn named(socket: Socket, host: Option<&Host>) -> (Socket, String) {
    match (socket, host) {
        (socket, Some(Host::Tcp(host))) => (socket, host.clone()),
        (Socket::Tcp(_), _) => {
            let nameless = std::io::Error::new(std::io::ErrorKind::InvalidInput, "a host has no name to be verified by");
            (Socket::Failed(Some(nameless)), String::new())
        }
        (socket, _) => (socket, String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::dsn::Dsn;
    use crate::db::sslmode::Settings;
    use tokio::io::AsyncReadExt as _;

    /// As if such a configuration could be made: reading one refuses it.
    #[tokio::test]
    async fn over_tcp_nothing_is_said_to_a_host_without_a_name() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        for (mode, directory) in [("require", "/tmp"), ("require", ""), ("prefer", "/tmp"), ("disable", "/tmp"), ("disable", "")]
        {
            let settings = Settings::take(&mut Dsn::parse(&format!("sslmode={mode}")).expect("pairs")).expect("a mode");
            let mut config = Config::new();
            settings.apply(&mut config);
            config.user("app").password("hush").port(port).hostaddr(std::net::Ipv4Addr::LOCALHOST.into());
            if !directory.is_empty() {
                config.host(directory);
            }
            let tls = Tls::new(settings).expect("no files");
            let server = async {
                let mut heard = vec![0; 100];
                let (mut server, _) = listener.accept().await.expect("it was connected");
                let length = server.read(&mut heard).await.expect("it is closed");
                heard.truncate(length);
                heard
            };
            let (ended, heard) = tokio::join!(raw(&config, &tls, 0, None), server);
            let Err(said) = ended else { panic!("{mode}: connected") };
            assert_eq!(heard, b"", "{mode} {directory}");
            assert!(crate::error::Error::chain(&said).contains("no name"), "{mode}: {said:?}");
        }
    }
}
