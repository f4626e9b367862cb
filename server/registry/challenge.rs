//! `WWW-Authenticate`: what a registry wants before it answers (RFC 9110, section 11.6.1; distribution token spec).

use crate::limits;

/// One challenge of the header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Challenge {
    /// In lower case.
    scheme: String,
    /// Names in lower case.
    parameters: Vec<(String, String)>,
}

/// What can be done about a 401.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// A token from `realm`.
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
    /// A user and a password.
    Basic,
    /// Something else, or nothing that makes sense.
    Unknown,
}

impl Wanted {
    /// The best of all challenges: a token before a password.
    pub fn from_headers<'a>(headers: impl Iterator<Item = &'a str>) -> Wanted {
        let challenges: Vec<Challenge> = headers.flat_map(parse).collect();
        let bearer = challenges.iter().filter(|c| c.scheme == "bearer").find_map(|challenge| {
            let realm = challenge.parameter("realm")?;
            Some(Wanted::Bearer {
                realm,
                service: challenge.parameter("service"),
                scope: challenge.parameter("scope"),
            })
        });
        let basic = || challenges.iter().any(|c| c.scheme == "basic").then_some(Wanted::Basic);
        bearer.or_else(basic).unwrap_or(Wanted::Unknown)
    }
}

impl Challenge {
    fn parameter(&self, name: &str) -> Option<String> {
        let (_, value) = self.parameters.iter().find(|(given, _)| given == name)?;
        let fits = !value.is_empty() && value.len() <= limits::CHALLENGE_PARAMETER_BYTES;
        fits.then(|| value.clone())
    }
}

/// All challenges of one header line. What cannot be read ends the reading: no error, the rest is not there.
fn parse(line: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = line.trim_start_matches([' ', '\t', ',']);
    while let Some((word, after)) = token(rest) {
        // `name=value` belongs to the challenge before; a word without `=` begins the next one.
        match after.trim_start().strip_prefix('=') {
            Some(value) if !challenges.is_empty() => {
                let Some((value, after)) = quoted_or_token(value.trim_start()) else { break };
                if let Some(current) = challenges.last_mut() {
                    current.parameters.push((word.to_ascii_lowercase(), value));
                }
                rest = after;
            }
            Some(_) => break,
            None => {
                challenges.push(Challenge { scheme: word.to_ascii_lowercase(), parameters: Vec::new() });
                rest = after;
            }
        }
        rest = rest.trim_start_matches([' ', '\t', ',']);
    }
    challenges
}

/// A token of RFC 9110 at the start of `text`, and what follows it.
fn token(text: &str) -> Option<(&str, &str)> {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let end = text.find(|c| !is_token(c)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

fn quoted_or_token(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        return token(text).map(|(value, rest)| (value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wanted(lines: &[&str]) -> Wanted {
        Wanted::from_headers(lines.iter().copied())
    }

    #[test]
    fn a_bearer_challenge_is_read_with_its_parameters() {
        let line = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#;
        assert_eq!(
            wanted(&[line]),
            Wanted::Bearer {
                realm: "https://auth.docker.io/token".into(),
                service: Some("registry.docker.io".into()),
                scope: Some("repository:a/b:pull,push".into()),
            }
        );
    }

    #[test]
    fn a_token_is_preferred_to_a_password_wherever_it_stands() {
        let bearer = Wanted::Bearer { realm: "https://r/t".into(), service: None, scope: None };
        assert_eq!(wanted(&[r#"Basic realm="x", bearer REALM = "https://r/t""#]), bearer);
        assert_eq!(wanted(&[r#"Basic realm="x""#, r#"BEARER realm="https:\/\/r/t""#]), bearer);
        assert_eq!(wanted(&[r#"Basic realm="x""#]), Wanted::Basic);
    }

    #[test]
    fn nonsense_is_no_challenge() {
        let long = format!(r#"Bearer realm="{}""#, "r".repeat(2000));
        for line in [
            "",
            "=",
            "Bearer",
            r#"Bearer realm="unclosed"#,
            r#"Bearer realm="""#,
            "realm=x",
            "Negotiate",
            &long,
        ] {
            assert_eq!(wanted(&[line]), Wanted::Unknown, "{line}");
        }
        assert_eq!(wanted(&[]), Wanted::Unknown);
    }

    proptest! {
        #[test]
        fn no_header_makes_the_parser_panic_or_hang(line in "[a-zé=\"\\\\, ]{0,60}") {
            parse(&line);
        }
    }
}
