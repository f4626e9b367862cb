//! Which registries pulls may name: the operator's lists.

use std::str::FromStr;

use crate::error::{Error, Result};
use crate::oci::digest::excerpt;
use crate::oci::reference::{Reference, spell_out};

/// The lists. What is denied is denied whatever is allowed; an empty list of the allowed allows all. They judge who is
/// asked, however a reference spells it.
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
    /// A host as it is spelt out, and its port where that is not the usual one.
    Exactly(String, Option<u16>),
}

/// Which list a rule stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum List {
    Allowed,
    /// Here a rule without a port is about every port of its host.
    Denied,
}

impl Rules {
    /// Whether anything of the registry may be pulled that `reference` names.
    ///
    /// # Errors
    /// `Refused`, naming the registry.
    pub fn check_registry(&self, reference: &Reference) -> Result<()> {
        let host = reference.host();
        let denied = self.denied.iter().any(|rule| rule.fits_all_of(host));
        let named = self.allowed.iter().any(|rule| rule.fits_host(host, List::Allowed));
        match denied || !(named || self.allowed.is_empty()) {
            true => self.check(reference),
            false => Ok(()),
        }
    }

    /// # Errors
    /// `Refused`, naming the registry.
    pub fn check(&self, reference: &Reference) -> Result<()> {
        let denied = self.denied.iter().any(|rule| rule.fits(reference, List::Denied));
        let allowed =
            self.allowed.is_empty() || self.allowed.iter().any(|rule| rule.fits(reference, List::Allowed));
        if allowed && !denied {
            return Ok(());
        }
        let (host, repository) = (reference.host(), reference.repository());
        // Where the whole registry is meant, no repository is to blame.
        let (setting, whole) = match denied {
            true => ("denied_registries names it", self.denied.iter().any(|rule| rule.fits_all_of(host))),
            false => (
                "allowed_registries does not name it",
                !self.allowed.iter().any(|rule| rule.fits_host(host, List::Allowed)),
            ),
        };
        let what = if whole { host.to_owned() } else { format!("{host}/{repository}") };
        let reason = format!("this server is not allowed to pull from `{what}`: its setting {setting}");
        Err(Error::Refused { reason })
    }
}

impl Rule {
    fn fits(&self, reference: &Reference, list: List) -> bool {
        let rest = reference.repository().strip_prefix(self.path.as_str());
        self.fits_host(reference.host(), list)
            && rest.is_some_and(|rest| self.path.is_empty() || rest.is_empty() || rest.starts_with('/'))
    }

    fn fits_host(&self, host: &str, list: List) -> bool {
        let (name, port) = spell_out(host);
        let any_port = list == List::Denied || port.is_none();
        match &self.host {
            HostRule::Any => true,
            HostRule::Below(end) => any_port && name.ends_with(end.as_str()),
            HostRule::Exactly(host, None) => any_port && name == *host,
            HostRule::Exactly(host, own) => port == *own && name == *host,
        }
    }

    /// Whether it denies a registry whole.
    fn fits_all_of(&self, host: &str) -> bool {
        self.fits_host(host, List::Denied) && self.path.is_empty()
    }
}

impl FromStr for Rule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Rule> {
        let wrong = || {
            let shown = excerpt(text);
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
                let (host, port) = spell_out(parsed(host)?.host());
                HostRule::Exactly(host, port)
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
    fn no_spelling_of_a_registry_gets_around_a_denial() {
        let denied =
            rules(&[], &["ghcr.io", "docker.io", "*.bad.com", "127.0.0.1", "[::1]:5000", "r.io:5000"]);
        let pulls = |reference: &str| denied.check(&reference.parse().expect(reference)).is_ok();
        for spelling in [
            "GHCR.io/a",
            "ghcr.io:443/a",
            "ghcr.io:80/a",
            "ghcr.io:8443/a",
            "registry-1.docker.io/library/a",
            "registry-1.docker.io:443/library/a",
            "index.docker.io:443/library/a",
            "docker.io:443/a",
            "a.bad.com:443/a",
            "a.bad.com:5000/a",
            "127.1:5000/a",
            "2130706433:5000/a",
            "0x7f000001:443/a",
            "[::ffff:127.0.0.1]/a",
            "[0:0::1]:5000/a",
            "r.io:05000/a",
        ] {
            assert!(!pulls(spelling), "{spelling}");
        }
        for other in ["bad.com/a", "r.io/a", "r.io:5001/a", "[::1]:5001/a", "[::2]:5000/a", "128.0.0.1/a"] {
            assert!(pulls(other), "{other}");
        }
        // What is allowed is allowed where it is usually asked, by any spelling of that, and at no other port.
        let allowed = rules(&["ghcr.io", "*.example.com"], &[]);
        let pulls = |reference: &str| allowed.check(&reference.parse().expect(reference)).is_ok();
        assert!(pulls("ghcr.io:443/a") && pulls("a.example.com:443/a"));
        assert!(!pulls("ghcr.io:8443/a") && !pulls("a.example.com:8443/a"));
    }

    #[test]
    fn a_refusal_names_the_list_and_a_repository_only_where_one_is_to_blame() {
        let told = |rules: &Rules| {
            rules.check(&"r.io/a/b".parse().expect("a reference")).expect_err("refused").to_string()
        };
        let not = "this server is not allowed to pull from";
        for (allowed, denied, why) in [
            (&[][..], &["r.io"][..], "`r.io`: its setting denied_registries names it"),
            (&[], &["r.io/a"], "`r.io/a/b`: its setting denied_registries names it"),
            (&["q.io"], &[], "`r.io`: its setting allowed_registries does not name it"),
            (&["r.io/c"], &[], "`r.io/a/b`: its setting allowed_registries does not name it"),
        ] {
            assert_eq!(told(&rules(allowed, denied)), format!("{not} {why}"));
        }
    }

    #[test]
    fn a_rule_that_fits_nothing_is_refused() {
        for bad in ["", "alpine", "https://r.io", "r.io/UPPER", "r.io/a//b", "*.", "a.*.b", "r.io/a*", "**"] {
            assert!(bad.parse::<Rule>().is_err(), "{bad}");
        }
    }
}
