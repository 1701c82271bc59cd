#pragma once
// The verbs of `host`: their words and flags. What they do stands in a file of their own, verb_<name>.cpp.
#include <boost/program_options/options_description.hpp>
#include <string>
#include <vector>

#include "cli/args.h"

namespace tenon::host {

enum class Needs {
  Nothing,   // answers without LibTorch
  LibTorch,  // lives in libtenon.so
};

struct Verb {
  std::string name, usage, summary;  // usage: what follows the name
  Needs needs = Needs::LibTorch;
  bool takes_recipe = false;
  size_t max_words = 0;  // besides the recipe
  void (*declare)(boost::program_options::options_description_easy_init&) = nullptr;
  std::string more = "";  // paragraphs below the flags in --help
  bool is_hidden = false;
};

// The flags of a verb without those that all take.
boost::program_options::options_description flags_of(const Verb& verb);

const std::vector<Verb>& verbs();
const Verb* find_verb(const std::string& name);

std::string overview();                 // `host --help`
std::string help_of(const Verb& verb);  // `host VERB --help`
std::string version_text();

}  // namespace tenon::host
