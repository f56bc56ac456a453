//! Whoever is between a client and a server: ends TLS with a certificate of its own, takes TLS away, or asks for what it
//! should not get.

use std::sync::{Arc, Mutex};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;

use super::certificates::Issued;

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// What it does.
#[derive(Clone, Debug)]
pub enum Trick {
    /// Says that there is no TLS, and forwards in plain text.
    Strip,
    /// Ends PostgreSQL's TLS with this certificate, and goes on in plain text.
    Terminate(Issued),
    /// … and goes on with TLS of its own.
    Reencrypt(Issued),
    /// Ends TLS that begins without asking, and goes on in plain text: what stands before an HTTPS server, too.
    Direct(Issued),
    /// Says that there is no TLS, and asks for the password as it is.
    AskInClear,
    /// Answers the question for TLS with this byte, and asks for the password as it is.
    AskAfter(u8),
    /// Ends TLS, and asks for the password as it is.
    AskInside(Issued),
}

/// It ends, with its connections, when this is dropped.
pub struct Middle {
    pub port: u16,
    /// What it does, and what is cancelled when it does something else.
    trick: Arc<Mutex<(Trick, CancellationToken)>>,
    heard: Arc<Mutex<Vec<u8>>>,
    opened: Arc<Mutex<usize>>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Middle {
    /// Starts one before a port of this host.
    pub async fn start(target: u16, trick: Trick) -> Middle {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let (trick, heard, opened) = (
            Arc::new(Mutex::new((trick, CancellationToken::new()))),
            Arc::<Mutex<Vec<u8>>>::default(),
            Arc::<Mutex<usize>>::default(),
        );
        let (doing, hearing, counting) = (Arc::clone(&trick), Arc::clone(&heard), Arc::clone(&opened));
        let accepting = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                *counting.lock().expect("no panic") += 1;
                let ((trick, standing), heard) = (doing.lock().expect("no panic").clone(), Arc::clone(&hearing));
                connections.spawn(async move {
                    // A client that turns away is what is being tested.
                    let _ended = standing.run_until_cancelled(serve(client, target, trick, heard)).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Middle { port, trick, heard, opened, accepting }
    }

    /// Does something else; connections that stand are ended.
    pub fn now(&self, trick: Trick) {
        let mut doing = self.trick.lock().expect("no panic");
        std::mem::replace(&mut *doing, (trick, CancellationToken::new())).1.cancel();
    }

    /// What clients said, as far as it can be read.
    pub fn heard(&self) -> String {
        String::from_utf8_lossy(&self.heard.lock().expect("no panic")).into_owned()
    }

    /// How many connections were taken.
    pub fn opened(&self) -> usize {
        *self.opened.lock().expect("no panic")
    }
}

impl Drop for Middle {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(mut client: TcpStream, target: u16, trick: Trick, heard: Arc<Mutex<Vec<u8>>>) -> std::io::Result<()> {
    if let Trick::Direct(issued) = &trick {
        let client = acceptor(issued).accept(client).await?;
        return join(client, TcpStream::connect(("127.0.0.1", target)).await?, &heard).await;
    }
    let mut first = [0; 8];
    client.read_exact(&mut first).await?;
    if first != SSL_REQUEST {
        // It does not ask for TLS.
        let mut server = TcpStream::connect(("127.0.0.1", target)).await?;
        server.write_all(&first).await?;
        return join(client, server, &heard).await;
    }
    match &trick {
        Trick::Strip | Trick::AskInClear => client.write_all(b"N").await?,
        Trick::AskAfter(byte) => client.write_all(&[*byte]).await?,
        _ => client.write_all(b"S").await?,
    }
    match trick {
        Trick::Strip => join(client, TcpStream::connect(("127.0.0.1", target)).await?, &heard).await,
        Trick::AskInClear | Trick::AskAfter(_) => ask(client, &heard).await,
        Trick::AskInside(issued) => ask(acceptor(&issued).accept(client).await?, &heard).await,
        Trick::Terminate(issued) | Trick::Direct(issued) => {
            let client = acceptor(&issued).accept(client).await?;
            join(client, TcpStream::connect(("127.0.0.1", target)).await?, &heard).await
        }
        Trick::Reencrypt(issued) => {
            let client = acceptor(&issued).accept(client).await?;
            join(client, encrypted(target).await?, &heard).await
        }
    }
}

/// Plays a server that wants the password as it is.
async fn ask(mut client: impl AsyncRead + AsyncWrite + Unpin, heard: &Mutex<Vec<u8>>) -> std::io::Result<()> {
    let mut buffer = vec![0; 4096];
    // The start-up message.
    let _start = client.read(&mut buffer).await?;
    client.write_all(b"R\0\0\0\x08\0\0\0\x03").await?;
    client.flush().await?;
    loop {
        let read = client.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        heard.lock().expect("no panic").extend_from_slice(&buffer[..read]);
    }
}

async fn join(
    client: impl AsyncRead + AsyncWrite,
    server: impl AsyncRead + AsyncWrite,
    heard: &Mutex<Vec<u8>>,
) -> std::io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let asking = async {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = from_client.read(&mut buffer).await?;
            if read == 0 {
                return to_server.shutdown().await;
            }
            heard.lock().expect("no panic").extend_from_slice(&buffer[..read]);
            to_server.write_all(&buffer[..read]).await?;
            to_server.flush().await?;
        }
    };
    let answering = async {
        tokio::io::copy(&mut from_server, &mut to_client).await?;
        to_client.shutdown().await
    };
    tokio::try_join!(asking, answering).map(drop)
}

fn acceptor(issued: &Issued) -> TlsAcceptor {
    let certificate = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).expect("a key");
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("they go together");
    // A server that wants the protocol's name gets it; who does not say one is served all the same.
    config.alpn_protocols = vec![b"postgresql".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

/// A connection to the real server, whose certificate nobody here looks at.
async fn encrypted(target: u16) -> std::io::Result<impl AsyncRead + AsyncWrite> {
    let mut server = TcpStream::connect(("127.0.0.1", target)).await?;
    server.write_all(&SSL_REQUEST).await?;
    assert_eq!(server.read_u8().await?, b'S', "the server has TLS");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let anybody = items_listen::db::verify::Verifier::unverified(provider.signature_verification_algorithms, Arc::default());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(anybody))
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("somebody").expect("a name"), server).await
}
