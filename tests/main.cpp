// The one main of all doctest executables. LibTorch's threads are left as they are; tests set what they need.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
