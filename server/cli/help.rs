//! `orlop help TOPIC`, and what `orlop` alone says.

use clap::ValueEnum;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Topic {
    ExitCodes,
    Filters,
    Environment,
}

impl Topic {
    pub fn text(self) -> &'static str {
        match self {
            Topic::ExitCodes => EXIT_CODES,
            Topic::Filters => FILTERS,
            Topic::Environment => ENVIRONMENT,
        }
    }
}

pub const SHORT: &str = "\
orlop stores container images and any other blobs, and serves them over HTTP.

  orlop serve                          run the server (http://127.0.0.1:7070, ./orlop-data)
  orlop pull alpine:3.22               pull an image into it, and watch
  orlop ls                             images; also content, leases, ingests, pulls, namespaces
  orlop get 2cf24d -o layer.tar.gz     a blob's bytes, verified
  orlop cat alpine:3.22:/etc/motd      a file out of an image; orlop tree shows what there is
  orlop put FILE                       store a blob
  orlop status                         how the server is

All commands: orlop --help    One: orlop pull --help    Topics: orlop help exit-codes|filters|environment
";

const EXIT_CODES: &str = "\
  0  success
  1  any other failure
  2  wrong usage
  3  partly done: some of what was asked for failed
  4  not found
  5  conflict, or a precondition that does not hold
  6  not authenticated, or not allowed
  7  server unreachable, too slow, not trusted (TLS), or not ready
  8  integrity: bytes that are not what they are named
  9  out of space, over a quota or limit, too many requests
 10  finished, and there are findings
 11  a job failed at the registry
130  interrupted (SIGINT)
143  terminated (SIGTERM)

Treat a code that is not listed as a failure.
";

const FILTERS: &str = "\
A filter compares fields: orlop ls content --filter 'size>1048576,labels.team==harbour'

  field==value    equal               field!=value    not equal, or not there
  field~=regex    matches somewhere   field           is there
  < <= > >=       sizes and times

A comma is AND; --filter given again is OR. A value with spaces or commas stands in double quotes, as does a regex
with them; a label key with dots or slashes too: labels.\"example.org/team\"==harbour

  images      id name target.digest target.media_type target.size created_at updated_at labels.*
  content     digest size media_type created_at updated_at labels.*
  leases      id kind expires_at created_at updated_at labels.*
  ingests     id ref offset total expected_digest state started_at updated_at expires_at labels.*
  snapshots   key parent kind diff_id size inodes created_at updated_at labels.*
  pulls       id ref state phase image_name created_at started_at finished_at labels.*
  namespaces  name created_at updated_at labels.*
  events      id time namespace topic subject event.FIELD event.labels.* (orlop events --json shows them)
";

const ENVIRONMENT: &str = "\
For every command that asks a server (a flag wins over its variable):

  ORLOP_SERVER        its URL [default: http://127.0.0.1:7070]
  ORLOP_TOKEN         the token; never a flag, for those can be read by every user of a machine
  ORLOP_TOKEN_FILE    a file that holds the token
  ORLOP_NAMESPACE     the namespace to work in [default: default]
  ORLOP_PROGRESS      auto, bar, plain, json or none
  NO_COLOR, CLICOLOR_FORCE, TERM=dumb    no colours, always colours, no colours
  SSL_CERT_FILE       the PEM file of the authorities to trust, for https:// with a certificate of your own
  HTTPS_PROXY, HTTP_PROXY, NO_PROXY      a proxy on the way to the server; never used for loopback

For `orlop serve`: ORLOP_CONFIG names its file, and each setting has a variable (orlop config show).
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orlop_alone_prints_about_ten_lines() {
        assert!((8..=11).contains(&SHORT.lines().count()), "{}", SHORT.lines().count());
        let topics = [Topic::ExitCodes, Topic::Filters, Topic::Environment];
        assert!(topics.iter().flat_map(|topic| topic.text().lines()).all(|line| line.chars().count() <= 120));
    }
}
