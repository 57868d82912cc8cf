// The systemd unit and the container image of the host. Neither is started by a test. What they run
// and set exists, and their syntax is checked.

use std::{collections::BTreeSet, process::Command};

use sandmill_tests::host::{binary, root, sandmill, stderr, stdout};

fn text(file: &str) -> String {
    std::fs::read_to_string(root().join("docs").join(file)).unwrap()
}

/// Asserts that the command line accepts these arguments.
fn assert_taken(arguments: &str) {
    let output = sandmill("").args(arguments.split_whitespace()).arg("--help").output().unwrap();
    assert!(output.status.success(), "{arguments}: {}", stderr(&output));
}

/// Asserts that these variables are settings with values that a host accepts.
fn assert_settings(variables: &[(&str, &str)]) {
    let mut command = sandmill("host=localhost");
    let output = command.envs(variables.iter().copied()).args(["config", "print", "--json"]).output().unwrap();
    assert!(output.status.success(), "{variables:?}: {}", stderr(&output));
    let printed: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    for (name, _) in variables {
        let is_set = |setting: &serde_json::Value| setting["origin"]["name"] == *name;
        assert!(printed["settings"].as_array().unwrap().iter().any(is_set), "{name} is no setting");
    }
}

#[test]
fn the_unit_runs_a_command_that_exists_with_settings_that_exist() {
    let unit = text("sandmill.service");
    let value = |key: &str| unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap();
    let (program, arguments) = value("ExecStart").split_once(' ').unwrap();
    assert_eq!(program, "/usr/local/bin/sandmill");
    assert_taken(arguments);
    assert_settings(&[value("Environment").split_once('=').unwrap()]);
}

/// Skipped where systemd is not installed.
#[test]
fn systemd_finds_no_fault_in_the_unit() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sandmill.service");
    // systemd checks that the program exists.
    let unit = text("sandmill.service").replace("/usr/local/bin/sandmill", binary().to_str().unwrap());
    std::fs::write(&file, unit).unwrap();
    match Command::new("systemd-analyze").arg("verify").arg(&file).output() {
        Ok(output) => assert!(!stderr(&output).contains("sandmill.service"), "{}", stderr(&output)),
        Err(_) => println!("skipped: there is no systemd-analyze"),
    }
}

#[test]
fn the_image_runs_a_command_that_exists_with_settings_that_exist() {
    let image = text("Dockerfile").replace("\\\n", " ");
    let known =
        ["FROM", "WORKDIR", "COPY", "RUN", "USER", "ENV", "VOLUME", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT", "CMD"];
    let lines = image.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let instructions: Vec<(&str, &str)> = lines.map(|line| line.split_once(' ').unwrap()).collect();
    let unknown: Vec<_> = instructions.iter().filter(|(name, _)| !known.contains(name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    let value = |wanted: &str| instructions.iter().rev().find(|(name, _)| *name == wanted).unwrap().1;
    let list = |wanted: &str| serde_json::from_str::<Vec<String>>(value(wanted)).unwrap();
    assert_eq!(list("ENTRYPOINT"), ["sandmill"]);
    assert_taken(&list("CMD").join(" "));
    let variables: Vec<(&str, &str)> =
        value("ENV").split_whitespace().map(|variable| variable.split_once('=').unwrap()).collect();
    assert_settings(&variables);
    // Stages and files that are copied exist.
    let stages: BTreeSet<&str> = instructions
        .iter()
        .filter(|(name, _)| *name == "FROM")
        .filter_map(|(_, value)| Some(value.split_once(" AS ")?.1))
        .collect();
    let sources = instructions.iter().filter(|(name, _)| *name == "COPY").map(|(_, value)| value);
    for stage in sources.filter_map(|value| value.strip_prefix("--from=")?.split(' ').next()) {
        assert!(stages.contains(stage), "{stage} is no stage");
    }
    for (name, command) in &instructions {
        let is_valid = || Command::new("sh").args(["-n", "-c", command]).status().unwrap().success();
        assert!(*name != "RUN" || is_valid(), "{command}");
    }
}
