use std::path::PathBuf;

use clap::CommandFactory;

use super::*;

fn read(line: &str) -> Result<(Cli, Vec<String>), clap::Error> {
    Cli::read(line.split_whitespace().map(OsString::from))
}

fn parse(line: &str) -> Cli {
    read(line).unwrap_or_else(|error| panic!("{line}: {error}")).0
}

fn run(line: &str) -> commands::run::RunArgs {
    let Some(Command::Run(args)) = parse(line).command else { panic!("{line} is not run") };
    args
}

fn error(line: &str) -> String {
    read(line).expect_err(line).to_string()
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn flags_of_llama_cpp_are_understood() {
    let args =
        run("sterna run m.gguf -p Once -n -1 -c 512 -t 2 --temp 0 --top-k 1 --top-p 1 --min-p 0 --repeat-penalty 1.1 \
                    --repeat-last-n -1 -s -1 --ignore-eos -e --no-display-prompt --kernel scalar");
    assert_eq!(args.model.file, Some(PathBuf::from("m.gguf")));
    assert_eq!((args.generate.limits.predict, args.generate.sampling.seed), (-1, -1));
    assert_eq!(args.generate.engine.kernel.as_deref(), Some("scalar"));
    let args = run("sterna run -hf a/b:TQ2_0 -hff x.gguf -f p.txt --offline -hft secret");
    assert_eq!(args.model.hf_repo.unwrap().to_string(), "a/b:TQ2_0");
    assert_eq!(args.model.hub.hf_file.as_deref(), Some("x.gguf"));
    assert!(args.model.hub.offline && args.model.hub.hf_token.as_deref() == Some("secret"));
    assert_eq!(parse("sterna -n 10 -p Hi").generate.limits.predict, 10);
    let args = run("sterna run -m m.gguf --n_predict 5 --seed=3 -t4 -bf prompt.bin -r A --stop B --reverse-prompt C");
    assert_eq!((args.generate.limits.predict, args.generate.sampling.seed), (5, 3));
    assert_eq!(args.generate.engine.threads, Some(4));
    assert_eq!(args.generate.prompt.prompt_file, Some(PathBuf::from("prompt.bin")));
    assert_eq!(args.generate.limits.stop, ["A", "B", "C"]);
    for wrong in ["sterna run -hf nothub", "sterna run m.gguf -t x", "sterna rnu", "sterna run m.gguf --temp nan"] {
        error(wrong);
    }
}

#[test]
fn negative_values_mean_what_they_mean_in_llama_cpp() {
    let args = run("sterna run m.gguf -t -1 --top-k -1 --temp -1 --seed -1 -n -2 --keep -1 --presence-penalty -0.5");
    let sampling = args.generate.sampling.sampling();
    assert_eq!((sampling.temperature, sampling.top_k, sampling.presence_penalty), (-1.0, 0, -0.5));
    assert_eq!(args.generate.engine.threads(), crate::machine::cores());
    let options = args.generate.options(7).unwrap();
    assert_eq!((options.max_tokens, options.keep, options.slide), (None, 7, false));
}

#[test]
fn of_flags_that_are_given_twice_the_last_one_holds() {
    let args =
        run("sterna run -m a.gguf -n 1 -n 2 --temp 0 --temp 1 --ignore-eos --ignore-eos -m b.gguf --no-perf --perf \
                    --escape --no-escape --context-shift --no-context-shift");
    assert_eq!((args.generate.limits.predict, args.generate.sampling.temp), (2, 1.0));
    assert_eq!(args.model.one().unwrap().as_deref(), Some("-m b.gguf"));
    assert!(!args.generate.perf.no_perf && args.generate.prompt.no_escape && !args.generate.context_shift);
}

#[test]
fn flags_without_effect_are_noted_and_refused_ones_say_what_to_do() {
    let (_, notes) = read(
        "sterna run m.gguf -ngl 99 -fa -nkvo --no-mmap --mlock -b 512 -ub 64 -tb 2 -ctk q8_0 -ctv f16 -mg 0 -sm none \
                           --color -fa on -no-cnv -st -mli --numa=distribute -p Hi",
    )
    .unwrap();
    assert_eq!(notes.len(), 18, "{notes:#?}");
    assert_eq!(notes[0], "-ngl 99 has no effect: everything runs on the CPU");
    assert_eq!((&notes[1][..17], &notes[13][..20]), ("-fa has no effect", "-fa on has no effect"));
    assert!(notes.iter().any(|note| note.starts_with("--numa distribute has no effect")));
    // Values that ask for what is so anyway.
    assert_eq!(
        read("sterna run m.gguf --mirostat 0 --typical 1.0 --ppl-x").unwrap_err().kind(),
        ErrorKind::UnknownArgument
    );
    assert_eq!(read("sterna run m.gguf --mirostat 0 --typical 1.0").unwrap().1, Vec::<String>::new());
    for (line, said) in [
        ("sterna run m.gguf --mirostat 2", "`sterna run` has no --mirostat 2: this sampler is not there"),
        ("sterna run m.gguf -cnv", "use `sterna chat`"),
        ("sterna chat m.gguf -no-cnv", "use `sterna run`"),
        ("sterna run m.gguf --grammar x", "has no --grammar x"),
        ("sterna perplexity m.gguf --ppl-stride 5", "use --stride N"),
        ("sterna run m.gguf --model-draft", "--model-draft needs a value"),
    ] {
        assert!(error(line).contains(said), "{line}: {}", error(line));
    }
}

#[test]
fn unknown_flags_are_named_whole_with_the_nearest() {
    for (line, said) in [
        ("sterna run m.gguf -nx 5", "there is no flag -nx"),
        ("sterna run m.gguf --tmep 1", "there is no flag --tmep; did you mean --temp?"),
        ("sterna run m.gguf --stride 3", "`sterna run` has no flag --stride, but `sterna perplexity` has"),
        ("sterna -xyz", "there is no flag -xyz"),
        ("sterna convert dir --outptu x", "there is no flag --outptu"),
        ("sterna bench gemm --sape 1", "did you mean --shape?"),
    ] {
        let text = error(line);
        assert!(text.contains(said) && text.contains("Usage: sterna"), "{line}: {text}");
        assert_eq!(read(line).unwrap_err().kind(), ErrorKind::UnknownArgument);
    }
    // What follows `--`, and the values of flags, are no flags.
    assert_eq!(run("sterna run -p -ngl m.gguf").generate.prompt.prompt.as_deref(), Some("-ngl"));
    assert_eq!(run("sterna run -- -ngl").model.file, Some(PathBuf::from("-ngl")));
}

#[test]
fn a_model_without_a_command_is_run() {
    assert_eq!(run("sterna model.gguf -n 3").model.file, Some(PathBuf::from("model.gguf")));
    assert_eq!(run("sterna -n 3 -ngl 99 a/b").model.file, Some(PathBuf::from("a/b")));
    assert_eq!(run("sterna -p Hi -m x").model.model, [PathBuf::from("x")]);
    assert_eq!(run("sterna -hf a/b").model.hf_repo.unwrap().to_string(), "a/b");
    assert_eq!(run("sterna https://example.org/x.gguf").model.file, Some(PathBuf::from("https://example.org/x.gguf")));
    assert!(parse("sterna -p a/b").command.is_none());
    assert_eq!(error("sterna rnu").lines().next().unwrap(), "error: unrecognized subcommand 'rnu'");
}

#[test]
fn two_models_are_named_in_the_error() {
    for (line, one, other) in [
        ("sterna run m.gguf -m n.gguf", "m.gguf", "-m n.gguf"),
        ("sterna run a.gguf -hf a/b", "a.gguf", "-hf a/b"),
        ("sterna chat -m a.gguf -mu https://example.org/x.gguf", "-m a.gguf", "--model-url https://example.org/x.gguf"),
    ] {
        let text = error(line);
        assert!(text.contains(&format!("two models are named, {one} and {other}")), "{text}");
    }
}

#[test]
fn two_revisions_are_one_too_many() {
    let pulled = |line: &str| {
        let Some(Command::Pull(args)) = parse(line).command else { panic!() };
        let crate::hub::Wanted::Model { name, .. } = &args.name else { panic!() };
        args.hub.complete(name)
    };
    assert_eq!(pulled("sterna pull a/b@v1 --revision v1").unwrap().revision.as_deref(), Some("v1"));
    assert!(pulled("sterna pull a/b@v1 --revision v2").is_err());
}

#[test]
fn drawn_seeds_differ_and_given_ones_stay() {
    let seed = |line: &str| run(line).generate.sampling.sampling().seed;
    assert_eq!(seed("sterna run m.gguf -s 7"), 7);
    assert_ne!(seed("sterna run m.gguf"), seed("sterna run m.gguf"));
}

/// `command` and all that are below it.
fn tree(command: &clap::Command) -> Vec<&clap::Command> {
    std::iter::once(command).chain(command.get_subcommands().flat_map(tree)).collect()
}

#[test]
fn every_option_with_a_number_takes_negative_ones() {
    let whole = Cli::whole();
    let numbers =
        [TypeId::of::<i64>(), TypeId::of::<u32>(), TypeId::of::<u64>(), TypeId::of::<usize>(), TypeId::of::<f32>()];
    let numbers = [&numbers[..], &[TypeId::of::<f64>(), TypeId::of::<Numbers>()]].concat();
    let mut count = 0;
    for command in tree(&whole) {
        for arg in command.get_arguments() {
            let kind = arg.get_value_parser().type_id();
            if arg.get_action().takes_values() && numbers.iter().any(|number| kind == *number) {
                assert!(arg.is_allow_negative_numbers_set(), "{} {}", command.get_name(), arg.get_id());
                count += 1;
            }
        }
    }
    assert!(count > 50, "{count}");
    for (line, said) in [
        ("sterna bench m.gguf -r -1", "give a whole number, at least 1"),
        ("sterna bench m.gguf -p -1", "give numbers such as 512"),
        ("sterna run m.gguf --keep -2", "give a whole number, at least -1"),
        ("sterna run m.gguf -c -5", "give a whole number, at least 0"),
        ("sterna run m.gguf --repeat-penalty -1", "give a number above 0"),
        ("sterna perplexity m.gguf -f x --stride -1", "give a whole number, at least 1"),
        ("sterna perplexity m.gguf -f x --chunks -3", "give a whole number, at least -1"),
        ("sterna bench gemm --seconds -1", "give a number of seconds"),
        ("sterna bench gemm --seconds nan", "give a number of seconds"),
        ("sterna bench m.gguf -p 3-1", "the range 3-1 is empty"),
    ] {
        let text = error(line);
        assert!(text.contains(said) && !text.contains("as a value, use"), "{line}: {text}");
    }
}

#[test]
fn no_threads_are_all_cores_in_every_command() {
    let cores = crate::machine::cores() as u32;
    for text in ["0", "-1", "-9"] {
        assert_eq!(threads(text), Ok(cores));
        for line in [
            "run m.gguf",
            "chat m.gguf",
            "bench m.gguf",
            "bench gguf m.gguf",
            "bench gemm",
            "bench model d --text x",
            "bench quantization",
            "perplexity m.gguf -f x",
            "eval m.gguf",
            "train --text x",
            "qat d --text x",
            "convert d o",
            "gguf d o",
            "quantize a b TQ2_0",
            "dequantize a b",
        ] {
            let line = format!("sterna {line} -t {text}");
            let said = read(&line).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(!said.contains("invalid value") && !said.contains("-t"), "{line}: {said}");
        }
    }
    assert_eq!((threads("1024"), threads("1025").is_err(), threads("x").is_err()), (Ok(1024), true, true));
}
