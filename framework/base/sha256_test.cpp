#include "base/sha256.h"

#include <doctest/doctest.h>

#include <string>

using namespace tenon::host;

TEST_CASE("sha256 gives the digests of the standard's examples") {
  CHECK(sha256("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(sha256("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK(sha256(std::string(1'000'000, 'a')) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST_CASE("sha256 does not depend on how the bytes are handed over") {
  const std::string text(1000, 'x');
  for (size_t first : {size_t{1}, size_t{55}, size_t{56}, size_t{63}, size_t{64}, size_t{65}, size_t{128}, size_t{999}}) {
    Sha256 hash;
    const auto bytes = std::as_bytes(std::span(text.data(), text.size()));
    hash.update(bytes.first(first));
    hash.update(bytes.subspan(first));
    CHECK(hash.hex() == sha256(text));
  }
}
