import js from "@eslint/js";
import globals from "globals";

export default [
  { ignores: ["**/built/**", "**/node_modules/**"] },
  js.configs.recommended,
  {
    languageOptions: { ecmaVersion: "latest", sourceType: "module", globals: globals.browser },
    rules: {
      curly: "error",
      eqeqeq: "error",
      "no-eval": "error",
      "no-implicit-globals": "error",
      "no-shadow": "error",
      "no-var": "error",
      "prefer-const": "error",
      "max-lines": ["error", 400],
      "max-lines-per-function": ["error", 50],
    },
  },
  { files: ["**/*.mjs"], languageOptions: { globals: globals.node } },
];
