//! Commands as a person types them, where the demo prints what it runs.

use crate::shell;
use std::path::Path;
use std::process::Command;

/// Prints a command as it can be typed at the repository's root.
pub fn typed(command: &Command) {
    let mut words = vec![program(command.get_program().as_ref())];
    words.extend(command.get_args().map(|word| quoted(&word.to_string_lossy())));
    println!("$ {}", words.join(" "));
}

/// Prints a variable that is in the environment of all that follows.
pub fn exported(name: &str, value: &str) {
    println!("$ export {name}={}", quoted(value));
}

/// Short where it can be: what is in PATH by its name, what is of the repository from its root.
fn program(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let in_path =
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).map(|folder| folder.join(&name)).find(|file| file.is_file());
    if in_path.is_some_and(|found| found == path) {
        return name;
    }
    quoted(&path.strip_prefix(shell::root()).unwrap_or(path).to_string_lossy())
}

/// In quotes where a shell would read more into it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@+".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_back_what_was_quoted() {
        for word in ["plain-1.0", "", "a b", "it's", "redis://h:1/0?stream=s", "$HOME", "`x`", "a\\b", "p*"] {
            let out = Command::new("sh").args(["-c", &format!("printf %s {}", quoted(word))]).output().unwrap();
            assert_eq!(String::from_utf8(out.stdout).unwrap(), word);
        }
    }
}
