#pragma once
// Small text helpers that error messages and reports share.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tenon::host {

// Candidates within edit distance max(1, length / 3), nearest first, at most `limit`.
std::vector<std::string> nearest(std::string_view name, const std::vector<std::string>& candidates, size_t limit = 3);
// ", did you mean 'block_size'?" or "".
std::string did_you_mean(std::string_view name, const std::vector<std::string>& candidates);

std::string join(const std::vector<std::string>& items, std::string_view separator);
std::vector<std::string> split(std::string_view text, char separator);

std::string human_bytes(int64_t bytes);     // "3.2 GiB", "512 B"
std::string human_count(int64_t count);     // "1.10 B", "12,345"
std::string human_seconds(double seconds);  // "1:02:03", "4.2 s"
// "20GiB", "500 MB", "1024", 1024 -> bytes; nullopt when malformed or over 2^62.
std::optional<int64_t> parse_bytes(std::string_view text);

}  // namespace tenon::host
