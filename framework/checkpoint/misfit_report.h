#pragma once
// The text of the one error that key accounting throws: tensors that do not fit, grouped over layers and experts, and a guess at the cause.
#include <cstddef>
#include <map>
#include <string>
#include <vector>

namespace tenon::host {

// Numbers among the components of a name become '*': "model.layers.*.mlp.up_proj.weight".
std::string name_pattern(const std::string& name);

// Lines "pattern (12 times: 0, 1, 2, ...)", at most `limit`, then how many more; `detail` by name follows the name and keeps groups apart.
std::string grouped(const std::vector<std::string>& names, const std::map<std::string, std::string>& detail = {}, size_t limit = 20);

// "the file's names lack the prefix 'model.' ..." when that explains at least half of the missing names; else "".
std::string prefix_hint(const std::vector<std::string>& missing, const std::vector<std::string>& surplus);

}  // namespace tenon::host
