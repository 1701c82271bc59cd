# tenon_warnings: link privately to every target of ours. TENON_WERROR makes them errors (the dev preset does).
include_guard(GLOBAL)

option(TENON_WERROR "Warnings are errors" OFF)

add_library(tenon_warnings INTERFACE)
target_compile_options(tenon_warnings INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wshadow;-Wnon-virtual-dtor;-Woverloaded-virtual;-Wcast-align>
  # GCC 12 reports these inside its own headers at -O2 (GCC bugs 105651, 105562).
  $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-restrict;-Wno-maybe-uninitialized>
  # Designated initializers leave the rest to the members' own defaults, on purpose.
  $<$<COMPILE_LANGUAGE:CXX>:-Wno-missing-field-initializers>
  $<$<AND:$<BOOL:${TENON_WERROR}>,$<COMPILE_LANGUAGE:CXX>>:-Werror>
  $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall>)
