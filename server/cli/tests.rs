//! The words of the command line, as they are taken.

use clap::CommandFactory;

use super::*;

fn parse(words: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(words.split(' '))
}

#[test]
fn the_definitions_hold_together() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_with_arguments_begins_its_help_with_examples() {
    let mut all = Cli::command();
    all.build();
    for command in all.get_subcommands().filter(|c| !["version", "help"].contains(&c.get_name())) {
        let before = command.get_before_help().map(ToString::to_string).unwrap_or_default();
        assert!(before.starts_with("Examples:\n  orlop "), "{}", command.get_name());
    }
}

#[test]
fn global_flags_stand_before_and_behind_the_command() {
    for words in ["orlop --namespace a --json ls content", "orlop ls content --json --namespace a"] {
        let cli = parse(words).expect("words");
        assert_eq!((cli.global.namespace.as_slice(), cli.global.json), (["a".to_owned()].as_slice(), true));
    }
}

#[test]
fn a_tokens_namespaces_are_its_own() {
    let cli = parse("orlop token create --name ci --scope write --namespace a --namespace b").expect("words");
    let Some(Command::Ask(Ask::Token { command: token::TokenCommand::Create(args) })) = cli.command else {
        panic!("a token")
    };
    assert!(format!("{args:?}").contains(r#"namespace: ["a", "b"]"#), "{args:?}");
}

#[test]
fn what_cannot_be_meant_is_wrong_usage() {
    for words in [
        "orlop pull",
        "orlop get 12",
        "orlop pull a --keep soon",
        "orlop pull a --label team",
        "orlop ls everything",
        "orlop lease create --ttl 1h --never",
        "orlop token create --name ci",
        "orlop pull a --token secret",
        "orlop pull a --all-platforms --platform linux/arm64",
        "orlop pull a --metadata-only --convert-schema1",
        "orlop pull a --referrer-type a/b",
        "orlop pull a --foreign-layers ask",
        "orlop pull a --dry-run --detach",
    ] {
        let error = parse(words).err().unwrap_or_else(|| panic!("{words} was taken"));
        assert!(error.use_stderr(), "{words}");
    }
}

#[test]
fn several_things_done_have_one_exit_code() {
    assert_eq!(sum_up(2, &[]), Exit::Success);
    assert_eq!(sum_up(2, &[Exit::NotFound]), Exit::Partly);
    assert_eq!(sum_up(2, &[Exit::NotFound, Exit::Denied]), Exit::NotFound);
}
