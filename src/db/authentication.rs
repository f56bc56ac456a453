//! Which ways of authentication we take part in: libpq's `require_auth`, and a rule of our own.
//!
//! The server says how it wants to be shown who we are, and tokio-postgres does as it is told: asked for the password as
//! it is, it sends the password as it is. So whoever can answer in the server's place could ask for it. What the server
//! asks for is therefore read before tokio-postgres sees it.
//!
//! The frames are those of <https://www.postgresql.org/docs/current/protocol-message-formats.html>.

/// A way to show who we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Nothing is asked for: `trust`, or the client certificate was enough.
    None,
    /// The password as it is.
    Password,
    /// A hash of it, by which anybody who has it can log in.
    Md5,
    /// SCRAM: the server has to know the password too, and learns nothing.
    Scram,
}

impl Method {
    const ALL: [Method; 4] = [Method::None, Method::Password, Method::Md5, Method::Scram];

    fn as_str(self) -> &'static str {
        match self {
            Method::None => "none",
            Method::Password => "password",
            Method::Md5 => "md5",
            Method::Scram => "scram-sha-256",
        }
    }

    /// From the code of an authentication request; what we do not speak has no method.
    fn of_code(code: u32) -> Option<Method> {
        match code {
            0 => Some(Method::None),
            3 => Some(Method::Password),
            5 => Some(Method::Md5),
            10 => Some(Method::Scram),
            _ => None,
        }
    }
}

/// The ways that are allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Methods(Vec<Method>);

impl Methods {
    /// `scram-sha-256,md5`, or with `!` before each those that are not allowed.
    ///
    /// # Errors
    /// What is wrong with the list.
    pub fn read(text: &str) -> Result<Methods, String> {
        let wrong = |what: &str| {
            let known = Method::ALL.map(Method::as_str).join(", ");
            format!("require_auth: {what}; a list of {known} is wanted, separated by commas, or of these with ! before each")
        };
        let words: Vec<&str> = text.split(',').map(str::trim).collect();
        let negated = words.iter().filter(|word| word.starts_with('!')).count();
        if negated != 0 && negated != words.len() {
            return Err(wrong("some have a ! and some have not"));
        }
        let mut named = Vec::new();
        for word in words {
            let word = word.trim_start_matches('!');
            let method = Method::ALL.into_iter().find(|method| method.as_str() == word);
            named.push(method.ok_or_else(|| wrong(&format!("\"{}\" is not known here", word.escape_debug())))?);
        }
        let allowed = Method::ALL.into_iter().filter(|method| named.contains(method) == (negated == 0)).collect();
        Ok(Methods(allowed))
    }

    fn allow(&self, method: Method) -> bool {
        self.0.contains(&method)
    }
}

/// We do not take part.
#[derive(Debug)]
pub struct Refused(String);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

/// What is known of the connection that is to be guarded.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// `require_auth`.
    pub methods: Option<Methods>,
    /// Whether others may listen: TCP to another machine. Then a password is never sent as it is without TLS, unless
    /// `require_auth` names it.
    pub is_exposed: bool,
}

impl Policy {
    /// Why we do not take part; `None` where we do.
    fn objects(&self, method: Method, encrypted: bool) -> Option<String> {
        let name = method.as_str();
        match &self.methods {
            Some(methods) if !methods.allow(method) => {
                Some(format!("the server asks for authentication by \"{name}\", which require_auth does not allow"))
            }
            None if method == Method::Password && self.is_exposed && !encrypted => {
                Some("the server asks for the password in clear text over a connection without TLS: it is not sent".to_owned())
            }
            _ => None,
        }
    }
}

/// Reads what the server says until it has said how it wants us to authenticate.
#[derive(Debug)]
pub struct Guard {
    policy: Policy,
    encrypted: bool,
    /// The beginning of the frame that is being read.
    head: Vec<u8>,
    /// What is left of a frame that says nothing about it.
    skip: usize,
    decided: bool,
}

/// A type, a length that counts itself but not the type, and the code of the request.
const REQUEST_BYTES: usize = 9;

impl Guard {
    /// Guards a connection.
    pub fn new(policy: Policy, encrypted: bool) -> Guard {
        Guard { policy, encrypted, head: Vec::new(), skip: 0, decided: false }
    }

    /// These bytes came, and were not passed on yet.
    ///
    /// # Errors
    /// Why they must not be.
    pub fn take_in(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        for byte in bytes {
            if self.decided {
                break;
            }
            if self.skip > 0 {
                self.skip -= 1;
                continue;
            }
            self.head.push(*byte);
            self.look()?;
        }
        Ok(())
    }

    fn look(&mut self) -> Result<(), Refused> {
        let [kind, length @ ..] = self.head.as_slice() else { return Ok(()) };
        match (kind, length) {
            (b'R', _) if self.head.len() == REQUEST_BYTES => {
                self.decided = true;
                let code = u32::from_be_bytes([self.head[5], self.head[6], self.head[7], self.head[8]]);
                // What we do not speak is refused by whoever reads on.
                let objection = Method::of_code(code).and_then(|method| self.policy.objects(method, self.encrypted));
                objection.map_or(Ok(()), |what| Err(Refused(what)))
            }
            (b'R', _) => Ok(()),
            (_, [a, b, c, d]) => {
                let length = u32::from_be_bytes([*a, *b, *c, *d]);
                self.skip = usize::try_from(length).unwrap_or(usize::MAX).saturating_sub(4);
                self.head.clear();
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(code: u32) -> Vec<u8> {
        [b"R\0\0\0\x08".as_slice(), &code.to_be_bytes()].concat()
    }

    fn refused(require_auth: Option<&str>, is_exposed: bool, encrypted: bool, code: u32) -> bool {
        let methods = require_auth.map(|text| Methods::read(text).expect("a list"));
        let mut whole = Guard::new(Policy { methods: methods.clone(), is_exposed }, encrypted);
        let said = whole.take_in(&request(code)).is_err();
        // However it is cut, and behind what else the server says.
        let mut cut = Guard::new(Policy { methods, is_exposed }, encrypted);
        let bytes = [b"N\0\0\0\x05R".as_slice(), &request(code), &request(3)].concat();
        assert_eq!(bytes.iter().any(|byte| cut.take_in(&[*byte]).is_err()), said);
        said
    }

    #[test]
    fn only_what_is_allowed_is_taken_part_in() {
        for (allowed, codes) in [
            ("scram-sha-256", [true, true, true, false]),
            ("scram-sha-256, md5", [true, true, false, false]),
            ("!password", [false, true, false, false]),
            ("!password,!md5", [false, true, true, false]),
            ("none", [false, true, true, true]),
        ] {
            let found = [0, 3, 5, 10].map(|code| refused(Some(allowed), true, true, code));
            assert_eq!(found, codes, "{allowed}");
        }
        for list in ["gss", "scram-sha-256,!md5", "", "md5,"] {
            assert!(Methods::read(list).is_err_and(|said| said.contains("scram-sha-256")), "{list}");
        }
    }

    #[test]
    fn a_password_is_not_sent_as_it_is_where_others_may_listen() {
        assert!(refused(None, true, false, 3));
        assert!(!refused(None, true, true, 3), "under TLS");
        assert!(!refused(None, false, false, 3), "on this machine");
        assert!(!refused(Some("password"), true, false, 3), "asked for");
        assert!(!refused(None, true, false, 5) && !refused(None, true, false, 10) && !refused(None, true, false, 0));
    }
}
