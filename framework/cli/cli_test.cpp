// The command line as a user meets it: the built `host`, its texts and exit statuses.
#include <sys/stat.h>

#include <fstream>

#include "base/json.h"
#include "support/errors.h"
#include "support/run_host.h"

#include <doctest/doctest.h>

namespace fs = std::filesystem;
using namespace tenon;
using namespace tenon::host;
using tenon::testing::bad_plugin;
using tenon::testing::contains;
using testing::run_host;

namespace {}  // namespace

TEST_CASE("help is an answer, a wrong word is an error with the right one") {
  for (const std::vector<std::string>& words : {std::vector<std::string>{}, {"--help"}, {"-h"}, {"help"}}) {
    const auto result = run_host(words);
    CHECK(result.status == 0);
    CHECK(contains(result.out, "usage: host VERB"));
    CHECK(result.err.empty());
  }
  CHECK(contains(run_host({"run", "--help"}).out, "host run recipe.toml"));
  CHECK(contains(run_host({"help", "generate"}).out, "--max-new-tokens"));
  CHECK(contains(run_host({"version"}).out, "tenon 0."));
  CHECK(contains(run_host({"--version"}).out, "SDK"));
  const auto wrong = run_host({"pln", "r.toml"});
  CHECK(wrong.status == 2);
  CHECK(wrong.err == "error: unknown verb 'pln', did you mean 'plan'?\n");
  CHECK(run_host({"help", "nothing"}).status == 2);
  CHECK(contains(run_host({"--json", "plan"}).err, "the verb comes first"));
  CHECK(contains(run_host({"plan"}).err, "host plan needs a recipe: host plan recipe.toml"));
  CHECK(contains(run_host({"plugins", "list", "--set", "a=1"}).err, "reads no recipe"));
  CHECK(contains(run_host({"plan", "no/such/recipe.toml"}).err, "cannot read 'no/such/recipe.toml': No such file or directory"));
  CHECK(run_host({"plan", "no/such/recipe.toml"}).status == 3);
}

TEST_CASE("plugins list with fifty files loads no LibTorch and runs no plugin") {  // ./dev bench --only start measures it
  const testing::TempDir folder;
  ::chmod(folder.path().c_str(), 0755);
  for (int i = 0; i < 50; ++i) {
    const fs::path copy = folder.path() / ("p" + std::to_string(i) + ".so");
    fs::copy_file(bad_plugin("runs_on_load"), copy);
    ::chmod(copy.c_str(), 0644);
  }
  const std::vector<std::string> place = {"--plugin-dir", folder.path().string()};
  const fs::path trace = folder.path() / "trace";
  const std::string traced = "TENON_TEST_TRACE=" + trace.string();
  for (std::vector<std::string> words : {std::vector<std::string>{"plugins", "list", "--json"},
                                         {"plugins", "list", "--method", "bitsandbytes"},
                                         {"plugins", "list", "--modality", "image"},
                                         {"plugins", "why", "runs_on_load"}}) {
    words.insert(words.end(), place.begin(), place.end());
    const auto result = run_host(words, {"LD_DEBUG=files", traced});
    CHECK(result.status == 0);
    CHECK(contains(result.err, "calling init"));  // so that the trace is one
    CHECK_FALSE(contains(result.err, "libtorch"));
    CHECK_FALSE(contains(result.err, folder.path().string()));
    CHECK_FALSE(fs::exists(trace));
  }
  std::vector<std::string> words = {"plugins", "list", "--json"};
  words.insert(words.end(), place.begin(), place.end());
  CHECK(parse_json(run_host(words).out, "list").as_list().size() >= 50);
  // The trace would be seen: describe loads it.
  CHECK(run_host({"plugins", "describe", "runs_on_load", "--plugin", (folder.path() / "p0.so").string()}, {traced}).status == 0);
  CHECK(fs::exists(trace));
}

TEST_CASE("manifests say who reads a quantized checkpoint") {
  const Value list = parse_json(run_host({"plugins", "list", "--method", "bitsandbytes", "--json", "--no-plugins"}).out, "list");
  REQUIRE(!list.as_list().empty());
  for (const auto& plugin : list.as_list())
    for (const auto& row : plugin.at("provides").as_list()) CHECK(row.at("attributes").at("method").as_string() == "bitsandbytes");
  CHECK(run_host({"plugins", "list", "--method", "none such", "--no-plugins"}).out == "no plugin to use\n");
}

TEST_CASE("plugins pin keeps what is trusted, and the modes follow it") {
  const testing::TempDir folder;
  ::chmod(folder.path().c_str(), 0755);
  const fs::path copy = folder.path() / "libgood.so", config = folder.path() / "config";
  fs::copy_file(bad_plugin("good"), copy);
  ::chmod(copy.c_str(), 0644);
  fs::create_directory(config);
  ::chmod(config.c_str(), 0755);
  auto host = [&](std::vector<std::string> words, bool with_file = true) {
    if (with_file) words.insert(words.end(), {"--plugin", copy.string()});
    return run_host(words, {"XDG_CONFIG_HOME=" + config.string()});
  };
  CHECK(host({"plugins", "describe", "good_patch"}).status == 0);
  CHECK(host({"plugins", "pin", "--mode", "pinned"}, false).out ==
        "mode pinned, 0 pinned, in " + (config / "tenon/plugins.json").string() + "\n");
  const auto refused = host({"plugins", "describe", "good_patch"});
  CHECK(refused.status == 4);
  CHECK(contains(refused.err, "it is not pinned: host plugins pin " + copy.string() + ", if you trust it"));
  const auto pinned = host({"plugins", "pin", "good_patch"});
  CHECK(pinned.status == 0);
  CHECK(contains(pinned.out, "pinned org.example.good "));
  CHECK(host({"plugins", "describe", "good_patch"}).status == 0);
  CHECK(host({"plugins", "describe", "good_patch", "--plugin-mode", "bundled"}).status == 4);
  // The command line cannot loosen.
  CHECK(host({"plugins", "describe", "good_patch", "--plugin-mode", "user"}).status == 0);
  { std::ofstream(copy, std::ios::app) << "one byte more"; }
  const auto changed = host({"plugins", "describe", "good_patch", "--plugin-mode", "user"});
  CHECK(changed.status == 4);
  CHECK(contains(changed.err, "its bytes are not those that were pinned"));
  CHECK(contains(host({"plugins", "pin", "org.example.good", "--remove"}, false).out, "forgot org.example.good"));
  CHECK(contains(host({"plugins", "pin", "org.example.god", "--remove"}, false).err, "no plugin of id 'org.example.god' is pinned"));
  const Value page = parse_json(host({"plugins", "pin", "--mode", "user", "--json"}, false).out, "pin");
  CHECK(page.at("mode").as_string() == "user");
  CHECK(page.at("pins").as_list().empty());
  CHECK(contains(host({"plugins", "pin", "--mode", "loose"}, false).err, "'loose' is no mode, the modes are user, pinned, bundled"));
  CHECK(contains(host({"plugins", "list", "--plugin-mode", "loose"}).err, "'loose' is no mode"));
  const fs::path recipe = folder.write("r.toml", "[model]\npath = \"nowhere\"\n[plugins]\nmode = \"bundled\"\n");
  CHECK(contains(host({"plan", recipe.string()}).err, "the plugin mode is bundled (the recipe)"));
}

TEST_CASE("why judges a file that lies outside the search, and names rivals") {
  const testing::TempDir folder;
  ::chmod(folder.path().c_str(), 0755);
  const fs::path copy = folder.path() / "libgood.so";
  fs::copy_file(bad_plugin("good"), copy);
  ::chmod(copy.c_str(), 0644);
  const auto outside = run_host({"plugins", "why", copy.string()});
  CHECK(outside.status == 0);
  CHECK(contains(outside.out, "it is sound, but lies in no folder that is searched: --plugin " + copy.string() + ", or copy it to "));
  const auto rivals = run_host({"plugins", "why", "good_patch", "--plugin", copy.string(), "--plugin", bad_plugin("same_name").string()});
  CHECK(contains(rivals.out, "patch 'good_patch' is provided by org.example.same_name"));
  const auto nothing = run_host({"plugins", "why", "zzz"}, {"TENON_PLUGIN_PATH=relative/folder"});
  CHECK(nothing.status == 4);
  CHECK(contains(nothing.err, "not relative/folder (TENON_PLUGIN_PATH): write the whole path"));
}

TEST_CASE("plugins list and why tell what is refused, and why") {
  const testing::TempDir folder;
  ::chmod(folder.path().c_str(), 0755);
  const fs::path copy = folder.path() / "libgood.so";
  fs::copy_file(bad_plugin("good"), copy);
  ::chmod(copy.c_str(), 0666);
  const std::vector<std::string> place = {"--plugin-dir", folder.path().string()};
  auto with_place = [&](std::vector<std::string> words) {
    words.insert(words.end(), place.begin(), place.end());
    return run_host(words);
  };
  const auto list = with_place({"plugins", "list"});
  CHECK(list.status == 0);
  CHECK(contains(list.out, "rejected org.example.good (" + copy.string() + "): '" + copy.string() + "' can be written to by everyone"));
  const auto why = with_place({"plugins", "why", "good_patch"});
  CHECK(why.status == 0);
  CHECK(contains(why.out, "org.example.good 1.2.3 is rejected\n  file: " + copy.string() +
                              " (--plugin-dir)\n  provides: patch:good_patch\n  - '" + copy.string()));
  const Value json = parse_json(with_place({"plugins", "why", copy.string(), "--json"}).out, "why");
  REQUIRE(json.as_list().size() == 1);
  CHECK(json.as_list()[0].at("state").as_string() == "rejected");
  const auto none = with_place({"plugins", "why", "god_patch"});
  CHECK(none.status == 4);
  CHECK(contains(none.err, "did you mean 'good_patch'?"));
  CHECK(contains(none.err, folder.path().string() + " (--plugin-dir)"));
  CHECK(run_host({"plugins", "why"}).status == 2);
  CHECK(run_host({"plugins", "tell", "x"}).status == 2);
}

TEST_CASE("plugins list filters by kind and modality") {
  const Value patches =
      parse_json(run_host({"plugins", "list", "--kind", "patch", "--json", "--plugin", bad_plugin("good").string()}).out, "list");
  bool found = false;
  for (const auto& file : patches.as_list())
    for (const auto& row : file.at("provides").as_list()) {
      CHECK(row.at("kind").as_string() == "patch");
      found |= row.at("name").as_string() == "good_patch" && row.at("attributes").at("stage").as_string() == "config";
    }
  CHECK(found);
  CHECK(contains(run_host({"plugins", "list", "--kind", "parrot"}).err, "there is no kind 'parrot', the kinds are: quantizer,"));
  const Value images = parse_json(run_host({"plugins", "list", "--modality", "image", "--json"}).out, "list");
  for (const auto& file : images.as_list())
    for (const auto& row : file.at("provides").as_list()) CHECK(contains(row.at("attributes").at("modality").as_string(), "image"));
}

TEST_CASE("plugins describe shows options as text, JSON, Markdown and recipe") {
  auto describe = [](std::vector<std::string> flags) {
    flags.insert(flags.begin(), {"plugins", "describe", "good_patch", "--plugin", bad_plugin("good").string()});
    return run_host(flags);
  };
  CHECK(describe({}).out == "patch good_patch - Sets a key. (org.example.good)\n  strength  int  1  0 to 9  How much.\n");
  CHECK(contains(describe({"--markdown"}).out, "| `strength` | int | `1` | 0 to 9 | How much. |"));
  CHECK(describe({"--toml"}).out == "[[patch]]\ntype = \"good_patch\"\nstrength = 1  # 0 to 9: How much.\n");
  const Value json = parse_json(describe({"--json"}).out, "describe");
  CHECK(json.as_list().at(0).at("options").as_list().at(0).at("max").as_float() == 9);
  const auto none = run_host({"plugins", "describe", "god_patch", "--plugin", bad_plugin("good").string()});
  CHECK(none.status == 4);
  CHECK(contains(none.err, "did you mean 'good_patch'?"));
}

TEST_CASE("doctor prints one page") {
  const auto text = run_host({"doctor"});
  CHECK(text.status == 0);
  for (const char* key :
       {"tenon ", "compiler ", "cpu_features", "plugin_mode", "plugin_folders", "libtorch", "libtorch_folder", "native_plugins"})
    CHECK(contains(text.out, key));
  CHECK(parse_json(run_host({"doctor", "--json"}).out, "doctor").at("libtorch").is_string());
}

TEST_CASE("docs/recipe.md is what the tables say") {
  const auto result = run_host({"__docs", "recipe"});
  REQUIRE(result.status == 0);
  INFO("renew it: ./dev host __docs recipe > docs/recipe.md");
  CHECK(result.out == testing::read_text(testing::source_dir() / "docs" / "recipe.md"));
}
