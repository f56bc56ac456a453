//! `private-encrypted-*` channels: what is published there only its subscribers can read.
//!
//! Pure: the nonce is an argument. The key of a channel is the SHA-256 of its name and the master key; the cipher is the
//! secretbox of `NaCl` (XSalsa20-Poly1305)
//! (<https://pusher.com/docs/channels/using_channels/encrypted-channels/>; pusher-http-go `crypto.go`).

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crypto_secretbox::aead::Aead as _;
use crypto_secretbox::{KeyInit as _, Nonce, XSalsa20Poly1305};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// What is published to such a channel is encrypted by its publisher. `private-encrypted-cache-` is one, too.
pub const PREFIX: &str = "private-encrypted-";
/// Of a master key, and of a channel's.
const KEY_BYTES: usize = 32;
/// Of a nonce.
pub const NONCE_BYTES: usize = 24;

/// Whether what goes to this channel must be encrypted.
pub fn is_encrypted(channel: &str) -> bool {
    channel.starts_with(PREFIX)
}

/// A master key, which publisher and application share. It is overwritten with the last of its clones.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(Arc<Zeroizing<[u8; KEY_BYTES]>>);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<secret>")
    }
}

/// The `data` of an event on such a channel.
#[derive(Serialize, Deserialize)]
struct Sealed {
    nonce: String,
    ciphertext: String,
}

impl Key {
    /// From its base64, as `openssl rand -base64 32` prints it.
    ///
    /// # Errors
    /// What is wanted, without repeating what was given.
    pub fn from_base64(text: &str) -> Result<Key, String> {
        let wrong = || "32 bytes in base64 are wanted, as openssl rand -base64 32 prints them".to_owned();
        let bytes = Zeroizing::new(STANDARD.decode(text.trim()).map_err(|_| wrong())?);
        let key: [u8; KEY_BYTES] = bytes.as_slice().try_into().map_err(|_| wrong())?;
        Ok(Key(Arc::new(Zeroizing::new(key))))
    }

    /// What tells it from another, and from which it cannot be had.
    pub fn fingerprint(&self) -> String {
        crate::watch::short_hash(&Zeroizing::new(STANDARD.encode(**self.0)))
    }

    fn of_channel(&self, channel: &str) -> XSalsa20Poly1305 {
        let key: [u8; KEY_BYTES] = Sha256::new().chain_update(channel).chain_update(**self.0).finalize().into();
        XSalsa20Poly1305::new(&key.into())
    }

    /// Encrypts what is to be published.
    ///
    /// # Errors
    /// More than the cipher can take, which no event is.
    pub fn seal(&self, channel: &str, data: &str, nonce: [u8; NONCE_BYTES]) -> Result<String, String> {
        let sealed = self.of_channel(channel).encrypt(&Nonce::from(nonce), data.as_bytes());
        let ciphertext = sealed.map_err(|_| "it cannot be encrypted".to_owned())?;
        let sealed = Sealed { nonce: STANDARD.encode(nonce), ciphertext: STANDARD.encode(ciphertext) };
        serde_json::to_string(&sealed).map_err(|error| error.to_string())
    }

    /// Decrypts what was encrypted with this key; `None` where it was not.
    pub fn open(&self, channel: &str, data: &str) -> Option<String> {
        let sealed: Sealed = serde_json::from_str(data).ok()?;
        let nonce: [u8; NONCE_BYTES] = STANDARD.decode(sealed.nonce).ok()?.try_into().ok()?;
        let ciphertext = STANDARD.decode(sealed.ciphertext).ok()?;
        let plain = self.of_channel(channel).decrypt(&Nonce::from(nonce), ciphertext.as_slice()).ok()?;
        String::from_utf8(plain).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with PHP's libsodium: see facts/pusher-http.md, section 2.
    #[test]
    fn it_is_what_libsodium_makes() {
        let key = Key(Arc::new(Zeroizing::new([1; 32])));
        let channel = "private-encrypted-items";
        let sealed = key.seal(channel, r#"{"a":1}"#, [2; 24]).expect("encrypts");
        let expected = r#"{"nonce":"AgICAgICAgICAgICAgICAgICAgICAgIC","ciphertext":"CTQd8vdDkxgqg2faHi6bRxc3RzRC0Wo="}"#;
        assert_eq!(sealed, expected);
        assert_eq!(key.open(channel, &sealed).as_deref(), Some(r#"{"a":1}"#));
        assert_eq!(key.open("private-encrypted-other", &sealed), None);
        let hashed =
            Sha256::new().chain_update("private-encrypted-bla").chain_update("This is a string that is 32 chars").finalize();
        assert!(hashed.iter().map(|byte| format!("{byte:02x}")).collect::<String>().starts_with("004831f9"));
    }

    #[test]
    fn a_key_has_32_bytes_and_is_never_shown() {
        let key = Key::from_base64(" AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\n").expect("a key");
        assert_eq!(key, Key(Arc::new(Zeroizing::new([1; 32]))));
        assert_eq!(format!("{key:?}"), "<secret>");
        for bad in ["", "AQEB", "not base64!", "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB"] {
            assert!(Key::from_base64(bad).is_err_and(|what| what.contains("32 bytes")), "{bad}");
        }
    }
}
