#pragma once
// The verbs that need LibTorch, each in verb_<name>.cpp. Each returns the exit status or throws.
#include "cli/args.h"

namespace tenon::host {

int verb_run(const Args& args);
int verb_plan(const Args& args);
int verb_logits(const Args& args);
int verb_generate(const Args& args);
int verb_tokenize(const Args& args);
int verb_data(const Args& args);
int verb_eval(const Args& args);
int verb_export(const Args& args);
int verb_bench(const Args& args);     // host __bench, for bench/run.py
int verb_describe(const Args& args);  // host plugins describe
int verb_docs(const Args& args);
int verb_check_plugin(const Args& args);
int verb_check(const Args& args);  // host __check, the child of check-plugin
int verb_doctor(const Args& args);

}  // namespace tenon::host
