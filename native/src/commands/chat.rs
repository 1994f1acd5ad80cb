//! `sterna chat`: a conversation in the terminal, through the model's own chat template.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use sterna_core::generate::GenerateOptions;
use sterna_core::generate::chat::{ChatTemplate, Extras, Message, TemplateError};
use sterna_core::tokenizer::EncodeOptions;
use sterna_core::{Error, Model, Sampling, Session, SessionOptions};

use super::run::sampling;
use crate::Out;
use crate::args::{EngineArgs, ModelArgs, SamplingArgs, read_text};
use crate::engine;
use crate::ui::stream::Printer;
use crate::ui::{interrupt, text};

/// What `sterna chat` takes.
#[derive(Debug, Args)]
pub struct ChatArgs {
    /// Which model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// What the model is told before the conversation; also -sys.
    #[arg(long, value_name = "TEXT")]
    pub system_prompt: Option<String>,
    /// Read that from a file; also -sysf.
    #[arg(long, value_name = "FILE", conflicts_with = "system_prompt")]
    pub system_prompt_file: Option<PathBuf>,
    /// Say this first.
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub prompt: Option<String>,
    /// Tokens per reply; -1 is until the model ends it.
    #[arg(short = 'n', long, visible_alias = "n-predict", value_name = "N", default_value_t = -1, allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1..))]
    pub predict: i64,
    /// A built-in template by name instead of the file's own.
    #[arg(long, value_name = "NAME")]
    pub chat_template: Option<String>,
    /// A Jinja template from a file instead of the model's own.
    #[arg(long, value_name = "FILE", conflicts_with = "chat_template")]
    pub chat_template_file: Option<PathBuf>,
    /// Do not print speeds (they go to stderr).
    #[arg(long)]
    pub no_perf: bool,
    /// How the engine runs.
    #[command(flatten)]
    pub engine: EngineArgs,
    /// How the next token is chosen.
    #[command(flatten)]
    pub sampling: SamplingArgs,
}

/// Talks until the input ends or `/exit`.
pub fn run(args: &ChatArgs, out: &mut Out) -> Result<()> {
    let path = args.model.resolve()?;
    let system = match &args.system_prompt_file {
        Some(file) => Some(read_text(file)?),
        None => args.system_prompt.clone(),
    };
    engine::with_threads(args.engine.threads(), |exec| {
        let model = engine::load(&path, args.engine.kernel.as_deref(), &*exec)?;
        let mut chat = Chat {
            template: template(&model, args)?,
            session: model.session(SessionOptions { context: args.engine.context(), exec }),
            system: system.map(|text| Message::new("system", text)),
            messages: Vec::new(),
            sampling: sampling(&args.sampling),
            limits: GenerateOptions { max_tokens: usize::try_from(args.predict).ok(), ..GenerateOptions::default() },
            perf: !args.no_perf,
        };
        if let Some(first) = &args.prompt {
            chat.turn(first, out)?;
        }
        chat.talk(out)
    })?
}

/// A conversation and all that it needs to go on.
struct Chat {
    template: ChatTemplate,
    session: Session,
    system: Option<Message>,
    messages: Vec<Message>,
    sampling: Sampling,
    limits: GenerateOptions,
    perf: bool,
}

impl Chat {
    fn talk(&mut self, out: &mut Out) -> Result<()> {
        let terminal = io::stdin().is_terminal();
        if terminal {
            eprintln!(
                "/clear begins anew, /exit or Ctrl-D ends; Ctrl-C stops a reply; \\ at a line's end goes on with the next"
            );
        }
        let mut said = String::new();
        loop {
            if terminal {
                eprint!("{}", if said.is_empty() { "> " } else { ". " });
                io::stderr().flush()?;
            }
            let mut line = String::new();
            if io::stdin().lock().read_line(&mut line).context("cannot read stdin")? == 0 {
                return Ok(());
            }
            let line = line.trim_end_matches(['\n', '\r']);
            if let Some(begun) = line.strip_suffix('\\') {
                said.push_str(begun);
                said.push('\n');
                continue;
            }
            said.push_str(line);
            match std::mem::take(&mut said).trim() {
                "" => {}
                "/exit" => return Ok(()),
                "/clear" => self.messages.clear(),
                message => self.turn(message, out)?,
            }
        }
    }

    /// One message and the reply to it.
    fn turn(&mut self, said: &str, out: &mut Out) -> Result<()> {
        let busy = interrupt::busy();
        self.messages.push(Message::new("user", said));
        let prompt = self.prompt()?;
        if prompt.len() >= self.session.context() {
            self.messages.pop();
            let (needed, limit) = (prompt.len(), self.session.context());
            eprintln!(
                "the conversation has {needed} tokens, the context {limit}: /clear begins anew, or start with a larger -c"
            );
            return Ok(());
        }
        // Templates may rewrite what was said (drop thoughts, say); what is still the same stays in the cache.
        let same = self.session.keep_prefix(&prompt);
        let mut printer = Printer::new(out);
        engine::feed(&mut self.session, &prompt[same..], &busy)?;
        printer.prompt_done(prompt.len() - same);
        let mut reply = self.session.reply(&self.sampling, &self.limits)?;
        let mut answer = String::new();
        while !busy.requested()
            && let Some(piece) = reply.next()
        {
            let piece = piece?;
            printer.token(&piece)?;
            answer.push_str(&piece);
        }
        printer.echo("\n")?;
        if self.perf && io::stderr().is_terminal() {
            eprintln!("[{}]", printer.speed().line());
        }
        if !io::stdin().is_terminal() {
            // Nobody is there to type the next message.
            busy.check()?;
        }
        self.messages.push(Message::new("assistant", answer));
        // The next reply draws on.
        self.sampling.seed = self.sampling.seed.wrapping_add(1);
        Ok(())
    }

    /// The whole conversation as tokens, ending where the reply begins.
    fn prompt(&self) -> Result<Vec<u32>> {
        let messages: Vec<Message> = self.system.iter().chain(&self.messages).cloned().collect();
        let now = i64::try_from(text::now()).ok();
        let rendered = self.template.render(&messages, true, &Extras::new(), now)?;
        let tokenizer = self.session.model().tokenizer()?;
        Ok(tokenizer.encode(&rendered, EncodeOptions { add_special: false, parse_special: true })?)
    }
}

/// The template that was asked for, or the model's.
fn template(model: &Model, args: &ChatArgs) -> Result<ChatTemplate> {
    let source = args.chat_template_file.as_deref().map(read_text).transpose()?;
    let given = source.as_deref().or(args.chat_template.as_deref());
    match model.chat_template(given) {
        Err(Error::Template(error @ TemplateError::Missing { .. })) => {
            Err(error).context("`sterna run` continues texts; --chat-template names a template")
        }
        other => Ok(other?),
    }
}
