//! Formats shares as percentages.

/// Of a share that is so near to 1 that more decimals are its rounding.
const DECIMALS_MAX: usize = 12;

/// Formats a share in percent for all text. The value is written exactly if four decimals suffice, as for
/// values that people enter. Otherwise it gets three significant digits, or more if needed to show that it is
/// not 100 %. So 0.1 is 10 %, 0.0914793 is 9.15 %, and 0.9997333 is 99.973 %.
#[must_use]
pub fn percent(share: f64) -> String {
    // Adding zero turns -0 into 0.
    let value = 100.0 * share + 0.0;
    let short = |text: String| {
        let trimmed = text.trim_end_matches('0').trim_end_matches('.');
        format!("{} %", if trimmed == "-0" { "0" } else { trimmed })
    };
    let written = format!("{value:.4}");
    let exact = written
        .parse()
        .is_ok_and(|read: f64| (read - value).abs() < 1e-9);
    if exact && (value == 0.0) == (written == "0.0000") {
        return short(written);
    }
    let near = value.abs().min((100.0 - value.abs()).abs());
    if near < 1e-3 && value.abs() < 1.0 {
        let text = format!("{value:.2e}");
        let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
        let digits = digits.trim_end_matches('0').trim_end_matches('.');
        return format!("{digits}e{power} %");
    }
    let decimals = match near {
        near if near < 0.01 => 5,
        near if near < 0.1 => 4,
        near if near < 1.0 => 3,
        near if near < 10.0 => 2,
        _ => 1,
    };
    // The difference from 100 % is shown with two significant digits.
    let decimals = if 50.0 < value.abs() && (0.01..10.0).contains(&near) {
        decimals - 1
    } else {
        decimals
    };
    // A confidence of 1 - 1e-9 is no certainty.
    let all = |text: &String| text == "100 %" || text == "-100 %";
    let mut texts = (decimals..=DECIMALS_MAX).map(|decimals| short(format!("{value:.decimals$}")));
    texts
        .find(|text| !all(text))
        .unwrap_or_else(|| short(written))
}
