//! `[http]`: where our own listener is, who may ask it, and what it tells. Pure.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::Secret;

/// Where health and status are served unless the configuration says otherwise.
pub const LISTEN_DEFAULT: &str = "127.0.0.1:9786";
/// The kernel takes no longer name of a socket, its final zero included.
const SOCKET_PATH_BYTES: usize = 107;

/// `[http]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// Where.
    pub listen: Listen,
    /// What whoever asks has to know, except for `/healthz` and `/readyz`.
    pub token: Option<Secret>,
    /// What is not told.
    pub hide: Hide,
}

/// `[http] listen`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// An address and a port.
    Tcp(SocketAddr),
    /// A Unix socket, by its whole path.
    Unix(PathBuf),
}

impl Listen {
    /// Reads `"127.0.0.1:9786"` or `"unix:/run/items-listen/http.sock"`.
    ///
    /// # Errors
    /// What is wanted.
    pub fn parse(text: &str) -> Result<Listen, String> {
        let Some(path) = text.strip_prefix("unix:") else {
            let wanted = || {
                format!(
                    "an address and port such as \"{LISTEN_DEFAULT}\", or \"unix:/run/items-listen/http.sock\", is wanted, this is \
                     \"{}\"",
                    text.escape_debug()
                )
            };
            return text.parse().map(Listen::Tcp).map_err(|_| wanted());
        };
        if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') {
            return Err(format!(
                "the whole path of a socket is wanted, such as \"unix:/run/items-listen/http.sock\", this is \"{}\"",
                text.escape_debug()
            ));
        }
        if path.len() > SOCKET_PATH_BYTES {
            return Err(format!("the path of a socket may have {SOCKET_PATH_BYTES} bytes, this has {}", path.len()));
        }
        Ok(Listen::Unix(path.into()))
    }

    /// Whether nobody but this machine can reach it.
    pub fn is_local(&self) -> bool {
        match self {
            Listen::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Listen::Unix(_) => true,
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Tcp(address) => write!(f, "{address}"),
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// `[http] hide`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hide {
    /// Keys, and every text in which one may stand: messages, channels, errors.
    pub keys: bool,
    /// Readings, thresholds and percentages, and how many keys there are and are open.
    pub counts: bool,
}

impl Hide {
    /// The words of the configuration.
    pub const WORDS: [&str; 2] = ["keys", "counts"];

    /// What is hidden, in the words of the configuration.
    pub fn words(self) -> Vec<&'static str> {
        Hide::WORDS.into_iter().zip([self.keys, self.counts]).filter_map(|(word, is)| is.then_some(word)).collect()
    }

    /// Hides what the word says; false if it is none of [`Hide::WORDS`].
    pub fn add(&mut self, word: &str) -> bool {
        match word {
            "keys" => self.keys = true,
            "counts" => self.counts = true,
            _ => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_sockets() {
        for (text, local) in [
            ("127.0.0.1:9786", true),
            ("[::1]:0", true),
            ("[::ffff:127.0.0.1]:80", true),
            ("0.0.0.0:9786", false),
            ("[::]:9786", false),
            ("10.0.0.1:80", false),
            ("unix:/run/items-listen/http.sock", true),
        ] {
            let listen = Listen::parse(text).expect(text);
            assert_eq!((listen.to_string(), listen.is_local()), (text.to_owned(), local));
        }
        let long = format!("unix:/{}", "x".repeat(107));
        for bad in ["", "9786", "localhost:9786", "127.0.0.1", "unix:", "unix:http.sock", "unix:/run/", "unix:@name", &long] {
            assert!(Listen::parse(bad).is_err_and(|what| what.contains("wanted") || what.contains("107")), "{bad}");
        }
    }
}
