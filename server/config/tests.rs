use clap::{Args, FromArgMatches};

use super::*;

/// What `orlop serve` would run with, given these flags, variables and file.
fn load(flags: &[&str], variables: &[(&str, &str)], file: &str) -> Result<Config> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("config.toml");
    std::fs::write(&path, file).expect("a file");
    let command = ServeArgs::augment_args(clap::Command::new("serve"));
    let words = ["serve", "--config", path.to_str().expect("UTF-8")].into_iter().chain(flags.iter().copied());
    let matches = command.try_get_matches_from(words).expect("flags");
    let args = ServeArgs::from_arg_matches(&matches).expect("flags");
    Config::load(&args, variables.iter().map(|(name, value)| (name.into(), value.into())))
}

fn refusal(flags: &[&str], variables: &[(&str, &str)], file: &str) -> String {
    load(flags, variables, file).expect_err("refused").to_string()
}

fn source(config: &Config, key: &str) -> (String, Source) {
    let shown = config.settings().iter().find(|shown| shown.key == key).expect("a setting");
    (shown.value.clone(), shown.source)
}

#[test]
fn without_any_configuration_the_defaults_hold() {
    let config = load(&[], &[], "").expect("defaults");
    assert_eq!(config.listen.to_string(), "127.0.0.1:7070");
    assert_eq!(config.max_blob_size, crate::limits::BLOB_BYTES);
    assert_eq!(config.pull_concurrency, crate::limits::PULLS);
    assert_eq!(config.layer_concurrency, crate::limits::PULL_LAYERS);
    assert_eq!(config.blob_concurrency, crate::limits::BLOB_PARTS);
    assert_eq!(config.host_concurrency, crate::limits::HOST_REQUESTS);
    assert_eq!(config.request_concurrency, crate::limits::TOTAL_REQUESTS);
    assert_eq!((config.grace_lease.as_secs(), config.shutdown_grace.as_secs()), (3_600, 20));
    assert!(config.database_url.is_none() && config.tls.is_none() && !config.auth_required());
    assert!(config.settings().iter().all(|shown| shown.source == Source::Default));
}

#[test]
fn a_flag_wins_over_the_environment_and_the_environment_over_the_file() {
    let file = "log = 'warn'\nsharing = 'isolated'\npull_concurrency = 2\nallowed_hosts = ['a.example', 'B.example']";
    let variables = [("ORLOP_LOG", "debug"), ("ORLOP_SHARING", "shared"), ("ORLOP_AUTH", "")];
    let config = load(&["--log", "trace"], &variables, file).expect("a configuration");
    assert_eq!(source(&config, "log"), ("trace".to_owned(), Source::Flag));
    assert_eq!(source(&config, "sharing"), ("shared".to_owned(), Source::Environment));
    assert_eq!(source(&config, "pull_concurrency"), ("2".to_owned(), Source::File));
    assert_eq!(source(&config, "auth"), ("auto".to_owned(), Source::Default));
    assert_eq!(config.allowed_hosts, ["a.example", "b.example"]);
}

#[test]
fn unknown_keys_and_variables_are_refused_with_the_likely_one() {
    let wrong = refusal(&[], &[], "# a comment\n\ndatadir = '/srv'\n");
    assert!(wrong.ends_with("line 3: `datadir` is not a setting; did you mean `data_dir`?"), "{wrong}");
    let wrong = refusal(&[], &[("ORLOP_LISTN", "x")], "");
    assert_eq!(wrong, "ORLOP_LISTN is not a setting; did you mean `ORLOP_LISTEN`?");
    let wrong = refusal(&[], &[], "listen = '127.0.0.1:1'\nlisten = '127.0.0.1:2'");
    assert!(wrong.contains("line 2: duplicate key"), "{wrong}");
}

#[test]
fn a_command_that_asks_a_server_knows_the_servers_variables_and_no_misspelt_ones() {
    let check =
        |names: &[&str]| check_variables(names.iter().map(Into::into)).map_err(|error| error.to_string());
    check(&["ORLOP_SERVER", "ORLOP_LISTEN", "ORLOP_PORT", "ORLOP_POSTGRES_PASSWORD", "HOME"])
        .expect("all known");
    let wrong = "ORLOP_SERVR is not a setting; did you mean `ORLOP_SERVER`?";
    assert_eq!(check(&["ORLOP_SERVR"]), Err(wrong.to_owned()));
}

#[test]
fn what_pulls_read_and_is_not_there_is_known_at_the_start() {
    let config =
        load(&["--hosts-dir", "/,/nonexistent/hosts", "--docker-config", "/nonexistent/config"], &[], "");
    let absent =
        [("hosts_dir", Path::new("/nonexistent/hosts")), ("docker_config", Path::new("/nonexistent/config"))];
    assert_eq!(config.expect("a configuration").absent_files(), absent);
    assert!(load(&[], &[], "").expect("defaults").absent_files().is_empty());
}

#[test]
fn variables_that_kubernetes_makes_for_a_service_named_orlop_are_no_settings() {
    let made = [
        "ORLOP_SERVICE_HOST",
        "ORLOP_SERVICE_PORT",
        "ORLOP_SERVICE_PORT_HTTP",
        "ORLOP_PORT",
        "ORLOP_PORT_7070_TCP",
        "ORLOP_PORT_7070_TCP_PROTO",
        "ORLOP_PORT_7070_TCP_PORT",
        "ORLOP_PORT_7070_TCP_ADDR",
        "ORLOP_DB_PORT_5432_TCP_ADDR",
    ];
    let variables: Vec<_> = made.iter().map(|name| (*name, "tcp://10.0.0.1:7070")).collect();
    load(&[], &variables, "").expect("service links are let pass");
    for ours in ["ORLOP_PORT_NUMBER", "ORLOP_PORTS", "ORLOP_PORT_7070_FTP", "ORLOP_SERVICE"] {
        assert!(load(&[], &[(ours, "1")], "").is_err(), "{ours}");
    }
}

#[test]
fn a_database_password_is_shown_nowhere() {
    let url = "postgres://orlop:s3cret@db/orlop?sslpassword=s3cret";
    let config = load(&[], &[("ORLOP_DATABASE_URL", url)], "").expect("a configuration");
    assert_eq!(config.database_url.as_ref().expect("a URL").expose(), url);
    assert_eq!(source(&config, "database_url").0, "postgres://orlop:***@db/orlop?sslpassword=***");
    assert!(!format!("{config:?}").contains("s3cret"));
    for wrong in ["mysql://u:s3cret@db", "s3cret"] {
        assert!(!refusal(&["--database-url", wrong], &[], "").contains("s3cret"), "{wrong}");
    }
}

#[test]
fn the_database_url_can_stand_in_a_file() {
    let mounted = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(mounted.path(), "postgres://u:p@db/orlop\n").expect("written");
    let path = mounted.path().to_str().expect("UTF-8");
    let variables = [("ORLOP_DATABASE_URL_FILE", path)];
    let config = load(&[], &variables, "database_url = 'postgres://other/db'").expect("a configuration");
    assert_eq!(config.database_url.expect("a URL").expose(), "postgres://u:p@db/orlop");
    let both = [("ORLOP_DATABASE_URL_FILE", path), ("ORLOP_DATABASE_URL", "postgres://u@db/x")];
    assert!(refusal(&[], &both, "").contains("give one of them"));
}

#[test]
fn a_public_address_needs_tls_or_a_word_that_says_it_is_meant() {
    let wrong = refusal(&["--listen", "0.0.0.0:7070"], &[], "");
    assert!(wrong.contains("--tls-cert") && wrong.contains("--insecure-http"), "{wrong}");
    let config = load(&["--listen", "0.0.0.0:7070", "--insecure-http"], &[], "").expect("meant");
    assert!(config.auth_required());
    load(&["--listen", "[::1]:7070"], &[], "").expect("loopback");
    load(&["--listen", "[::]:7070", "--tls-cert", "c", "--tls-key", "k"], &[], "").expect("TLS");
    assert!(refusal(&["--tls-cert", "c"], &[], "").contains("needs tls_key"));
}

#[test]
fn a_server_on_loopback_that_goes_by_another_name_lets_others_in_and_asks_for_tokens() {
    let load = |variables: &[(&str, &str)]| {
        let variables = variables.iter().map(|(key, value)| (key.into(), value.into()));
        Config::load(&Default::default(), variables).expect("a configuration")
    };
    let alone = load(&[]);
    assert!(!alone.auth_required() && alone.may_pull_privately());
    let behind_a_proxy = load(&[("ORLOP_ALLOWED_HOSTS", "store.example")]);
    assert!(behind_a_proxy.auth_required() && !behind_a_proxy.may_pull_privately());
    let with_tokens = load(&[("ORLOP_AUTH", "always")]);
    assert!(!with_tokens.may_pull_privately());
    let told = load(&[("ORLOP_AUTH", "always"), ("ORLOP_PRIVATE_REGISTRIES", "allow")]);
    assert!(told.may_pull_privately());
    assert!(!load(&[("ORLOP_PRIVATE_REGISTRIES", "refuse")]).may_pull_privately());
}

#[test]
fn a_wrong_value_names_its_place_and_what_would_do() {
    assert_eq!(
        refusal(&["--pull-concurrency", "0"], &[], ""),
        "--pull-concurrency: `0` is not a whole number from 1 to 64"
    );
    let wrong = refusal(&[], &[], "\nlog_format = 'xml'");
    assert!(
        wrong.ends_with("config.toml, line 2: `log_format` `xml` is not one of auto, text, json"),
        "{wrong}"
    );
    for (key, wrong) in [
        ("ORLOP_LISTEN", "7070"),
        ("ORLOP_GRACE_LEASE", "0s"),
        ("ORLOP_MAX_BLOB_SIZE", "99999999TiB"),
        ("ORLOP_MAX_BLOB_SIZE", "-1"),
        ("ORLOP_ALLOWED_HOSTS", "a.example:80"),
        ("ORLOP_ALLOWED_HOSTS", "https://a.example"),
        ("ORLOP_INSECURE_HTTP", "yes"),
        ("ORLOP_LOG", "orlop=[loud"),
    ] {
        assert!(refusal(&[], &[(key, wrong)], "").starts_with(key), "{key}={wrong}");
    }
    assert!(refusal(&[], &[], "insecure_http = 1").contains("must be true or false"));
}

#[test]
fn the_example_file_is_a_valid_one_with_every_key() {
    let uncommented: String = example()
        .lines()
        .filter_map(|line| line.strip_prefix("# ").filter(|l| l.contains(" = ")))
        .collect::<Vec<_>>()
        .join("\n");
    let config = load(&[], &[], &uncommented).expect("the example");
    assert!(config.settings().iter().all(|shown| shown.source == Source::File));
}

#[test]
fn sizes_are_written_as_people_write_them() {
    assert_eq!(values::size("4096").expect("bytes"), 4_096);
    assert_eq!(values::size("1 GiB").expect("binary"), 1 << 30);
    assert_eq!(values::size("2MB").expect("decimal"), 2_000_000);
    assert!(values::size("0").is_err() && values::size("1 Gib").is_err() && values::size("").is_err());
}
