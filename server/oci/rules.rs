//! Which registries pulls may name: the operator's lists.

use std::str::FromStr;

use crate::error::{Error, Result};
use crate::oci::reference::Reference;

/// The lists. What is denied is denied whatever is allowed; an empty list of the allowed allows all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    pub allowed: Vec<Rule>,
    pub denied: Vec<Rule>,
}

/// `ghcr.io`, `*.example.com`, `registry:5000/team`, `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    host: HostRule,
    /// The repository, or the part before a slash of it; empty for all.
    path: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum HostRule {
    Any,
    /// The part after the star, with its dot.
    Below(String),
    Exactly(String),
}

impl Rules {
    /// # Errors
    /// `Refused`, naming the registry.
    pub fn check(&self, reference: &Reference) -> Result<()> {
        let denied = self.denied.iter().any(|rule| rule.fits(reference));
        let allowed = self.allowed.is_empty() || self.allowed.iter().any(|rule| rule.fits(reference));
        if allowed && !denied {
            return Ok(());
        }
        let (host, repository) = (reference.host(), reference.repository());
        let reason = format!("this server is not allowed to pull `{host}/{repository}`");
        Err(Error::Refused { reason })
    }
}

impl Rule {
    fn fits(&self, reference: &Reference) -> bool {
        let host = match &self.host {
            HostRule::Any => true,
            HostRule::Below(end) => reference.host().ends_with(end.as_str()),
            HostRule::Exactly(host) => reference.host() == host,
        };
        let rest = reference.repository().strip_prefix(self.path.as_str());
        host && rest.is_some_and(|rest| self.path.is_empty() || rest.is_empty() || rest.starts_with('/'))
    }
}

impl FromStr for Rule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Rule> {
        let wrong = || {
            let shown = text.escape_debug();
            Error::invalid(format!(
                "`{shown}` is no rule for registries: give ghcr.io, *.example.com or ghcr.io/team"
            ))
        };
        let text = text.strip_suffix("/*").unwrap_or(text);
        let (host, path) = text.split_once('/').unwrap_or((text, ""));
        // The rule is written in the words of references, so it is held to their grammar.
        let parsed = |host: &str| -> Result<Reference> {
            let repository = if path.is_empty() { "x" } else { path };
            format!("{host}/{repository}").parse().map_err(|_| wrong())
        };
        let host = match host {
            "*" => parsed("any.example").map(|_| HostRule::Any)?,
            host if host.starts_with("*.") => {
                parsed(&host[2..])?;
                HostRule::Below(host[1..].to_ascii_lowercase())
            }
            host if host.contains(['.', ':']) || host == "localhost" => {
                HostRule::Exactly(parsed(host)?.host().to_owned())
            }
            _ => return Err(wrong()),
        };
        Ok(Rule { host, path: path.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(allowed: &[&str], denied: &[&str]) -> Rules {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().expect(text)).collect();
        Rules { allowed: parse(allowed), denied: parse(denied) }
    }

    #[test]
    fn a_list_of_the_allowed_allows_nothing_else_and_a_denial_wins() {
        let pulls =
            |rules: &Rules, reference: &str| rules.check(&reference.parse().expect(reference)).is_ok();
        assert!(pulls(&Rules::default(), "alpine"));
        let some =
            rules(&["docker.io/library", "*.example.com", "r.io:5000"], &["bad.example.com", "*/evil"]);
        for (reference, allowed) in [
            ("alpine", true),
            ("user/app", false),
            ("docker.io/library-of/app", false),
            ("a.example.com/x", true),
            ("a.b.example.com/x/y", true),
            ("example.com/x", false),
            ("badexample.com/x", false),
            ("bad.example.com/x", false),
            ("a.example.com/evil", false),
            ("a.example.com/evil/x", false),
            ("a.example.com/evils", true),
            ("r.io:5000/x", true),
            ("r.io/x", false),
        ] {
            assert_eq!(pulls(&some, reference), allowed, "{reference}");
        }
        assert!(!pulls(&rules(&[], &["*"]), "alpine"));
        assert!(pulls(&rules(&["index.docker.io"], &[]), "alpine"), "Docker Hub by its older name");
    }

    #[test]
    fn a_rule_that_fits_nothing_is_refused() {
        for bad in ["", "alpine", "https://r.io", "r.io/UPPER", "r.io/a//b", "*.", "a.*.b", "r.io/a*", "**"] {
            assert!(bad.parse::<Rule>().is_err(), "{bad}");
        }
    }
}
