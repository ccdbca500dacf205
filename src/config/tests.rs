//! Tables over all settings: both spellings, precedence, bad values together.
