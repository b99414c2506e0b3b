//! Whether the user's commands can be run at all. Nothing is run.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::Checks;
use crate::finding::Severity;

impl Checks<'_> {
    pub(super) fn commands(&mut self) {
        let settings = &self.config.postgresql.settings;
        let mut commands: Vec<(String, String)> = Vec::new();
        for (action, command) in settings.callbacks.iter().flatten() {
            commands.push((format!("postgresql.callbacks.{action}"), command.clone()));
        }
        for (key, command) in [("pre_promote", &settings.pre_promote), ("before_stop", &settings.before_stop)] {
            commands.extend(command.iter().map(|c| (format!("postgresql.{key}"), c.clone())));
        }
        for name in settings.create_replica_methods.iter().flatten().filter(|name| *name != "basebackup") {
            // One without a section may have it in the stored document.
            let method = settings.replica_methods.get(name);
            commands.extend(method.map(|m| (format!("postgresql.{name}.command"), m.command.clone())));
        }
        if let Some(bootstrap) = &self.config.bootstrap {
            commands
                .extend(bootstrap.method.iter().map(|m| (format!("bootstrap.{}.command", m.name), m.command.clone())));
            let key = if self.config.source_of("bootstrap.post_bootstrap").is_some() {
                "post_bootstrap"
            } else {
                "post_init"
            };
            commands.extend(bootstrap.post_bootstrap.iter().map(|c| (format!("bootstrap.{key}"), c.clone())));
        }
        for (path, command) in commands {
            self.command(&path, &command);
        }
    }

    fn command(&mut self, path: &str, command: &str) {
        let words = shlex::split(command);
        let Some(program) = words.iter().flatten().next().filter(|w| !w.is_empty()) else {
            return self
                .error(path, format!("expected a command line, found {command:?} with an open quote or no word"));
        };
        let runnable =
            |path: &Path| fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
        let found = if program.contains('/') {
            runnable(Path::new(program))
        } else {
            let search = self.env.get("PATH").map_or("", String::as_str);
            std::env::split_paths(search).any(|dir| runnable(&dir.join(program)))
        };
        if !found {
            let message = format!("{program} is not there or not executable; install it, or correct the command");
            self.report(Severity::Warning, path, message);
        }
    }
}
