//! Templates over the event (minijinja), with JSON types kept where a leaf is a single expression.
//!
//! Compiled once, when the configuration is read. The two environments are process-wide and the
//! sources are leaked: a configuration is read once per start or reload, and its templates are small.

use std::sync::OnceLock;

use minijinja::{Environment, Expression, Template, UndefinedBehavior, Value};
use serde_json::Value as Json;

use super::channel;

/// How many instructions of the template engine one rendering may take: a loop in a loop must not stop the fold.
const FUEL: u64 = 10_000;

/// A template that renders to text.
#[derive(Debug)]
pub struct Text {
    source: &'static str,
    /// Its values are encoded, and marked.
    is_channel: bool,
    template: Template<'static, 'static>,
}

impl Text {
    /// Compiles a template of ordinary text.
    ///
    /// # Errors
    /// What is wrong with it, in one line.
    pub fn try_new(source: &str) -> Result<Text, String> {
        Text::compile(text_environment(), source, false)
    }

    /// Compiles a template whose values are encoded for channel names.
    ///
    /// # Errors
    /// What is wrong with it, in one line.
    pub fn try_new_for_channel(source: &str) -> Result<Text, String> {
        if source.contains('\0') {
            return Err("a NUL cannot be part of a channel".to_owned());
        }
        Text::compile(channel_environment(), source, true)
    }

    fn compile(environment: &'static Environment<'static>, source: &str, is_channel: bool) -> Result<Text, String> {
        let source: &'static str = Box::leak(source.to_owned().into_boxed_str());
        let template = environment.template_from_str(source).map_err(|error| one_line(&error))?;
        Ok(Text { source, is_channel, template })
    }

    /// The template as it was written.
    pub fn source(&self) -> &'static str {
        self.source
    }

    /// Renders it.
    ///
    /// # Errors
    /// What went wrong, in one line.
    pub fn render(&self, context: &Value) -> Result<String, String> {
        let rendered = caught(|| self.template.render(context))?;
        // No database text can hold a NUL, and a row's json may; in a channel it is a mark of ours.
        Ok(if self.is_channel || !rendered.contains('\0') { rendered } else { rendered.replace('\0', "\u{fffd}") })
    }

    /// The variables it uses, with their paths: `count`, `key.tenant_id`.
    pub fn variables(&self) -> Vec<String> {
        let mut variables = self.template.undeclared_variables(true);
        variables.extend(blocks(self.source).flat_map(sliced));
        sorted(variables)
    }
}

/// A template that keeps its type: the body of one `{{ … }}`.
#[derive(Debug)]
pub struct Typed {
    /// As it was written.
    source: &'static str,
    expression: Expression<'static, 'static>,
}

impl Typed {
    /// Evaluates it.
    ///
    /// # Errors
    /// What went wrong, in one line.
    pub fn eval(&self, context: &Value) -> Result<Json, String> {
        // What is lazy is only computed as it is written.
        let value = caught(|| {
            let value = self.expression.eval(context)?;
            Ok((value.is_undefined(), serde_json::to_value(&value)))
        })?;
        match value {
            (true, _) => Err("an undefined value".to_owned()),
            (false, json) => json.map_err(|error| error.to_string()),
        }
    }
}

/// A leaf of `data`: text, or a value whose type is kept.
#[derive(Debug)]
pub enum Leaf {
    /// A single expression.
    Typed(Typed),
    /// Anything else.
    Text(Text),
}

impl Leaf {
    /// Compiles a leaf.
    ///
    /// # Errors
    /// What is wrong with it, in one line.
    pub fn try_new(source: &str) -> Result<Leaf, String> {
        let Some(inner) = single_expression(source) else { return Text::try_new(source).map(Leaf::Text) };
        let inner: &'static str = Box::leak(inner.to_owned().into_boxed_str());
        let expression = text_environment().compile_expression(inner).map_err(|error| one_line(&error))?;
        Ok(Leaf::Typed(Typed { source: inner, expression }))
    }

    /// Renders the leaf to JSON.
    ///
    /// # Errors
    /// What went wrong, in one line.
    pub fn render(&self, context: &Value) -> Result<Json, String> {
        match self {
            Leaf::Typed(typed) => typed.eval(context),
            Leaf::Text(text) => text.render(context).map(Json::String),
        }
    }

    /// The variables it uses, with their paths.
    pub fn variables(&self) -> Vec<String> {
        match self {
            Leaf::Typed(typed) => {
                let mut variables = typed.expression.undeclared_variables(true);
                variables.extend(sliced(typed.source));
                sorted(variables)
            }
            Leaf::Text(text) => text.variables(),
        }
    }
}

/// The insides of `{{ … }}` and `{% … %}`.
fn blocks(source: &str) -> impl Iterator<Item = &str> {
    source.split('{').filter_map(|piece| piece.strip_prefix('%').or(Some(piece))).filter_map(|piece| piece.split('}').next())
}

/// What minijinja 2.24 does not find: it looks into the bounds of a slice, and not at what is cut. So of an expression with
/// brackets every path under `row`, `old`, `lookup` or `key` counts, wherever it stands outside of quotes.
fn sliced(expression: &str) -> Vec<String> {
    const ROOTS: [&str; 4] = ["row", "old", "lookup", "key"];
    if !expression.contains('[') {
        return Vec::new();
    }
    let mut quote = None;
    let unquoted = expression.chars().map(|c| {
        match quote {
            Some(open) if c == open => quote = None,
            None if c == '\'' || c == '"' => quote = Some(c),
            None => return c,
            Some(_) => {}
        }
        ' '
    });
    let unquoted: String = unquoted.collect();
    let words = unquoted.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '.');
    let paths = words.filter(|word| word.split_once('.').is_some_and(|(root, rest)| ROOTS.contains(&root) && !rest.is_empty()));
    paths.map(|path| path.trim_end_matches('.').to_owned()).collect()
}

/// The inside of `{{ … }}` where the whole template is one expression.
fn single_expression(source: &str) -> Option<&str> {
    let inner = source.trim().strip_prefix("{{")?.strip_suffix("}}")?;
    let inner = inner.trim_matches('-');
    (!["{{", "}}", "{%", "{#"].iter().any(|mark| inner.contains(mark))).then_some(inner)
}

fn text_environment() -> &'static Environment<'static> {
    static ENVIRONMENT: OnceLock<Environment<'static>> = OnceLock::new();
    ENVIRONMENT.get_or_init(environment)
}

fn channel_environment() -> &'static Environment<'static> {
    static ENVIRONMENT: OnceLock<Environment<'static>> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| {
        let mut environment = environment();
        environment.set_formatter(|out, _, value| channel::format(out, value));
        environment
    })
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    // A misspelt name is an error, never an empty string in a channel.
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    // With a large number these ask for memory that no machine has, and that ends a process.
    ["batch", "slice", "indent"].into_iter().for_each(|filter| environment.remove_filter(filter));
    environment
}

/// Renders. What the engine cannot do is the event's fault, never the daemon's: minijinja 2.24 panics, for instance, on
/// `[::-1]` of an empty text, which a row's value may well be.
fn caught<T>(render: impl FnOnce() -> Result<T, minijinja::Error>) -> Result<T, String> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(render)) {
        Ok(rendered) => rendered.map_err(|error| one_line(&error)),
        Err(_) => Err("the template engine panicked on this event".to_owned()),
    }
}

fn one_line(error: &minijinja::Error) -> String {
    error.to_string().replace('\n', " ").replace(" (in <string>:1)", "").replace(" (in <expression>:1)", "")
}

fn sorted(variables: std::collections::HashSet<String>) -> Vec<String> {
    let mut variables: Vec<String> = variables.into_iter().collect();
    variables.sort_unstable();
    variables
}

#[cfg(test)]
mod tests {
    use super::*;
    use minijinja::context;

    #[test]
    fn a_single_expression_keeps_its_type() {
        let context = context! { count => 25, key => context! { tenant_id => 7, name => "a\"b" } };
        let render = |source: &str| Leaf::try_new(source).and_then(|leaf| leaf.render(&context));
        assert_eq!(render("{{ count }}"), Ok(Json::from(25)));
        assert_eq!(render(" {{ count * 2 }} "), Ok(Json::from(50)));
        assert_eq!(render("{{ key }}"), Ok(serde_json::json!({"tenant_id": 7, "name": "a\"b"})));
        assert_eq!(render("n={{ count }}"), Ok(Json::from("n=25")));
        assert_eq!(render("{{ count }}{{ count }}"), Ok(Json::from("2525")));
        assert!(render("{{ cuont }}").is_err(), "a misspelt name is an error");
        assert!(render("{{ cuont }}!").is_err());
    }

    /// Found by fuzzing.
    #[test]
    fn what_the_engine_cannot_do_is_an_error_and_never_a_panic_or_a_hang() {
        let context = context! { name => "", list => Vec::<i64>::new() };
        let render = |source: &str| Leaf::try_new(source).and_then(|leaf| leaf.render(&context));
        for source in ["{{ name[::-1] }}", "{{ list[::-1] }}", "x{{ name[::-1] }}"] {
            let _any_but_a_panic = render(source);
        }
        let endless =
            "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}x{% endfor %}{% endfor %}{% endfor %}";
        assert!(render("{{ name|batch(99999999999999999) }}").is_err());
        assert!(render(endless).is_err_and(|what| what.contains("fuel")), "a rendering has an end");
        assert!(Text::try_new_for_channel("a\0[b").is_err());
    }

    #[test]
    fn variables_are_named_with_their_paths() {
        let leaf = Leaf::try_new("{{ key.tenant_id }} {{ count }}").expect("compiles");
        assert_eq!(leaf.variables(), ["count", "key.tenant_id"]);
        let of = |source: &str| Leaf::try_new(source).expect("compiles").variables();
        assert_eq!(of("{{ row.output[:80] }}"), ["row.output"]);
        assert_eq!(of("{{ (row.a ~ 'row.no')[1:] }}: {{ old.b }} row.c[:1]"), ["old.b", "row.a"]);
        assert_eq!(of("{% if key.x[:1] == 'a' %}{{ lookup.l[0] }}{% endif %}"), ["key.x", "lookup.l"]);
    }
}
