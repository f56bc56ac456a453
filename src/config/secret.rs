//! A secret is a type: it has no `Display`, its `Debug` says nothing, it is read in one place, and its memory is overwritten
//! when it is no longer needed.

use std::fmt;
use std::sync::Arc;

use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// A password, key or connection string. Its clones share one place in memory, which is overwritten with the last of them.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<Zeroizing<String>>);

impl Secret {
    /// Wraps a secret. A `String` is taken over where it stands, and not copied.
    pub fn new(secret: impl Into<String>) -> Secret {
        Secret(Arc::new(Zeroizing::new(secret.into())))
    }

    /// The secret itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether somebody who may guess has guessed it: how long the answer takes tells nothing but the length.
    pub fn is(&self, guess: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(guess).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown_and_is_only_itself() {
        let secret = Secret::new("hush".to_owned());
        assert_eq!(format!("{secret:?} {:?}", Some(&secret)), "<secret> Some(<secret>)");
        assert!(secret.is(b"hush") && !secret.is(b"hus") && !secret.is(b"hush!") && !secret.is(b""));
        assert_eq!(secret, Secret::new("hush"));
    }
}
