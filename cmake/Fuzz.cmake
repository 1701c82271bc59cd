# tenon_add_fuzzer(<name> HARNESS x.cpp [COVERS source...] [LINK target...])
#
# A fuzzer in build/fuzz, in builds with TENON_SANITIZE only. HARNESS defines LLVMFuzzerTestOneInput, so that any engine
# can drive it; ours is tests/fuzz/driver.cpp, because GCC has no libFuzzer. COVERS are the sources whose branches guide
# the search: compiled once more, with coverage; what else they need comes from LINK (their own objects come first, so an
# archive or a shared library that holds the same functions is no clash). Corpus: tests/fuzz/corpus/<name>/.
include_guard(GLOBAL)

function(tenon_add_fuzzer name)
  cmake_parse_arguments(arg "" "HARNESS" "COVERS;LINK" ${ARGN})
  if(NOT TENON_SANITIZE)
    return()
  endif()
  if(NOT TARGET tenon_fuzz_driver)
    add_library(tenon_fuzz_driver OBJECT "${PROJECT_SOURCE_DIR}/tests/fuzz/driver.cpp")
    target_link_libraries(tenon_fuzz_driver PRIVATE tenon_warnings)
  endif()
  add_executable(${name} "${arg_HARNESS}" ${arg_COVERS})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/fuzz")
  target_compile_options(${name} PRIVATE -fsanitize-coverage=trace-pc,trace-cmp)
  target_link_libraries(${name} PRIVATE tenon_fuzz_driver ${arg_LINK} tenon_warnings tenon_sanitizers)
endfunction()
