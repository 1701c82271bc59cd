# tenon_add_test(<name> SOURCES a_test.cpp ... [LINK target ...] [LIGHT] [LABELS ...]): a doctest executable in build/tests, registered with ctest.
# LIGHT tests see no LibTorch. Tests find the repository, the build and real data (it may be absent) through tests/support/paths.h.
include_guard(GLOBAL)

add_library(tenon_test_main OBJECT "${PROJECT_SOURCE_DIR}/tests/main.cpp")
target_link_libraries(tenon_test_main PRIVATE tenon_sanitizers)
add_library(tenon_test_seed OBJECT "${PROJECT_SOURCE_DIR}/tests/seed.cpp")
target_link_libraries(tenon_test_seed PRIVATE tenon_torch_headers tenon_sanitizers)

function(tenon_add_test name)
  cmake_parse_arguments(arg "LIGHT" "" "SOURCES;LINK;LABELS" ${ARGN})
  add_executable(${name} ${arg_SOURCES} $<TARGET_OBJECTS:tenon_test_main>)
  target_compile_options(${name} PRIVATE -O1)  # half the time to build, and tests are no hot code
  if(arg_LIGHT)
    target_link_libraries(${name} PRIVATE tenon_light ${arg_LINK})
  else()
    target_sources(${name} PRIVATE $<TARGET_OBJECTS:tenon_test_seed>)
    target_link_libraries(${name} PRIVATE tenon ${arg_LINK})
    # LibTorch's logging has a CHECK of its own, which aborts. The last definition wins without a warning, so its header comes
    # first and doctest's CHECK counts, whatever the order of a test's includes.
    target_compile_options(${name} PRIVATE "SHELL:-include c10/util/Logging.h")
  endif()
  target_link_libraries(${name} PRIVATE tenon_warnings tenon_sanitizers)
  target_include_directories(${name} PRIVATE "${PROJECT_SOURCE_DIR}/framework" "${PROJECT_SOURCE_DIR}/tests" "${PROJECT_SOURCE_DIR}/sdk/include")
  target_compile_definitions(${name} PRIVATE TENON_SOURCE_DIR="${PROJECT_SOURCE_DIR}" TENON_BUILD_DIR="${PROJECT_BINARY_DIR}"
    TENON_SHARED_DIR="${PROJECT_SOURCE_DIR}/../shared")
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/tests")
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES LABELS "unit;${arg_LABELS}" TIMEOUT 600)
endfunction()
