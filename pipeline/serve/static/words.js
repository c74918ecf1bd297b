// Every text of the page, in English and Korean.

const ENGLISH = {
  title: "Face mask detection",
  skip: "Skip to the result",
  language: "Language",
  theme: "Theme",
  themeAuto: "Theme: auto",
  themeLight: "Theme: light",
  themeDark: "Theme: dark",
  lead: "Finds the faces in a photo and tells how each wears its mask.",
  choose: "Choose photos",
  take: "Take a photo",
  cameraOn: "Switch the camera on",
  cameraOff: "Switch the camera off",
  drop: "Or drop photos anywhere on this page, or paste one.",
  dropHere: "Let go to look for faces",
  where: "Where photos are looked at",
  onServer: "On the server",
  onDevice: "On this device",
  loadingModel: "Loading the model",
  privacyDevice: "Photos and camera pictures stay on this device. Nothing is sent or stored.",
  privacy: "Photos and camera pictures go only to the server that this page comes from. Nothing is stored.",
  limits:
    "The result says what a picture shows, not whether a person is protected, and it can be wrong. " +
    "Please do not use it to penalise people.",

  "class.with_mask": "With mask",
  "class.without_mask": "Without mask",
  "class.mask_weared_incorrect": "Mask worn wrongly",

  photos: "Photos",
  camera: "Camera",
  size: ({ width, height }) => `${width} × ${height} px`,
  rate: ({ rate }) => `${rate} pictures a second`,
  keep: "Keep this picture",
  turn: "Next camera",
  retry: "Try again",
  remove: "Remove this photo",
  clear: "Remove all",
  facesFound: ({ count }) => (count === 1 ? "1 face" : count ? `${count} faces` : "No face"),
  inPhoto: ({ file, what }) => `${file}: ${what}`,
  total: ({ photos, count, right }) =>
    `All ${photos} photos: ${count === 1 ? "1 face" : `${count} faces`}` + (right ? `, masks worn correctly: ${right}` : ""),
  waiting: "Waiting",
  working: "Looking for faces …",
  workingOn: ({ file }) => `Looking for faces in ${file} …`,
  busy: "The server is busy. Trying again …",
  failed: "Failed",
  noResult: "No result for this photo.",
  cameraStarting: "Starting the camera …",

  count: "Count",
  share: ({ percent }) => `${percent}%`,
  shareOf: ({ right, all }) => `of the faces wear a mask correctly (${right} of ${all})`,
  noFaces: "No face is shown. A smaller score may show more.",
  show: "Shown",
  score: "Score at least",
  scoreShort: "Score",
  scoreHelp: "The probability that it is a face and its label is right.",
  scoreValue: ({ score, what }) => `${score}, ${what}`,
  reset: "Reset",
  smallest: "Smallest face",
  smallestAuto: "Automatic",
  faces: "Faces",
  facesHint: "Choose one to see it marked in the picture.",
  face: "Face",
  faceNumber: ({ number }) => `Face ${number}`,
  mask: "Mask",
  unsure: "not sure",
  faceScore: "A face",
  save: "Save",
  savePicture: "Picture with boxes",
  saveJson: "Result (JSON)",
  saveAll: "Results of all photos (JSON)",

  token: "Token",
  tokenTitle: "A token is needed",
  tokenAsk: "This server wants a token. It is kept only until you close or reload this page.",
  tokenWrong: "The server does not accept this token. Please check it.",
  tokenUse: "Use it",
  cancel: "Cancel",

  dismiss: "Dismiss",
  offline: "The server does not answer. Check that it runs, then try again.",
  offlineLarge: ({ size }) =>
    `The server does not answer. It may have ended, or not take a file of ${size} MB. Try again, or a smaller photo.`,
  slow: "The server took too long. Try again, or a smaller photo.",
  strange: "The server gave an answer that this page does not understand. Reload the page.",
  refused: ({ line }) => line,
  noModel: "The model could not be loaded. Check the connection, then try again.",
  deviceFailed: "This device could not process the photo. Try a smaller one.",
  unknownFormat: "Your browser cannot read this picture. Save it as JPEG or PNG, then try again.",
  tooLarge: ({ most }) => `The photo has more than ${most} million pixels. Make it smaller first.`,
  noToken: "Without its token the server gives no result. Try again to enter it.",
  unreadable: "Your browser cannot read this file. It may be a folder, or have been moved or changed.",
  noFiles: "No photo came with this. Save the picture as a file, then drop that.",
  notShown: "Your browser cannot show this format. The boxes are right nevertheless.",
  notDrawn: "Your browser cannot draw this photo: its format is unknown to it, or it is too large.",
  cameraInsecure: "Browsers give the camera only to pages on this machine (localhost) or over https. Photos work here.",
  cameraRefused: "The camera was not allowed. Allow it for this page in the browser's settings, then try again.",
  cameraMissing: "No camera was found. Plug one in, or choose photos.",
  cameraTaken: "The camera cannot be read. Another program may be using it.",
  cameraEnded: "The camera stopped. Plug it in again, then switch it on.",
  cameraHidden: "The camera was switched off while the page was hidden.",
};

const KOREAN = {
  title: "얼굴 마스크 감지",
  skip: "결과로 건너뛰기",
  language: "언어",
  theme: "테마",
  themeAuto: "테마: 자동",
  themeLight: "테마: 밝게",
  themeDark: "테마: 어둡게",
  lead: "사진에서 얼굴을 찾아 마스크를 어떻게 쓰고 있는지 알려 드립니다.",
  choose: "사진 선택",
  take: "사진 찍기",
  cameraOn: "카메라 켜기",
  cameraOff: "카메라 끄기",
  drop: "사진을 이 페이지에 끌어다 놓거나 붙여 넣으셔도 됩니다.",
  dropHere: "놓으면 얼굴을 찾습니다",
  where: "사진을 처리할 곳",
  onServer: "서버에서",
  onDevice: "이 기기에서",
  loadingModel: "모델을 불러오는 중입니다",
  privacyDevice: "사진과 카메라 화면은 이 기기 밖으로 나가지 않으며, 어디에도 저장되지 않습니다.",
  privacy: "사진과 카메라 화면은 이 페이지를 제공하는 서버로만 전송되며, 어디에도 저장되지 않습니다.",
  limits:
    "결과는 사진에 보이는 모습을 알려 줄 뿐, 그 사람이 감염으로부터 보호되는지는 알려 주지 않으며 틀릴 수 있습니다. " +
    "사람에게 불이익을 주는 데 사용하지 말아 주세요.",

  "class.with_mask": "마스크 착용",
  "class.without_mask": "마스크 미착용",
  "class.mask_weared_incorrect": "마스크 잘못 착용",

  photos: "사진 목록",
  camera: "카메라",
  size: ({ width, height }) => `${width} × ${height} px`,
  rate: ({ rate }) => `초당 ${rate}장`,
  keep: "이 화면 남기기",
  turn: "다른 카메라",
  retry: "다시 시도",
  remove: "이 사진 빼기",
  clear: "모두 빼기",
  facesFound: ({ count }) => (count ? `얼굴 ${count}개` : "얼굴 없음"),
  inPhoto: ({ file, what }) => `${file}: ${what}`,
  total: ({ photos, count, right }) =>
    `사진 ${photos}장 전체: 얼굴 ${count}개` + (right ? `, 올바른 착용 ${right}` : ""),
  waiting: "대기 중",
  working: "얼굴을 찾는 중입니다 …",
  workingOn: ({ file }) => `${file}에서 얼굴을 찾는 중입니다 …`,
  busy: "서버가 바쁩니다. 다시 시도하고 있습니다 …",
  failed: "실패",
  noResult: "이 사진의 결과가 없습니다.",
  cameraStarting: "카메라를 켜는 중입니다 …",

  count: "집계",
  share: ({ percent }) => `${percent}%`,
  shareOf: ({ right, all }) => `마스크를 올바르게 쓴 얼굴의 비율 (${all}개 중 ${right}개)`,
  noFaces: "표시할 얼굴이 없습니다. 최소 점수를 낮추면 더 표시될 수 있습니다.",
  show: "표시 기준",
  score: "최소 점수",
  scoreShort: "점수",
  scoreHelp: "얼굴이 맞고 분류도 맞을 확률입니다.",
  scoreValue: ({ score, what }) => `${score}, ${what}`,
  reset: "기본값으로",
  smallest: "가장 작은 얼굴",
  smallestAuto: "자동",
  faces: "얼굴 목록",
  facesHint: "얼굴을 고르면 사진에 표시해 드립니다.",
  face: "얼굴",
  faceNumber: ({ number }) => `얼굴 ${number}`,
  mask: "마스크",
  unsure: "확실하지 않음",
  faceScore: "얼굴일 가능성",
  save: "저장",
  savePicture: "상자를 그린 사진",
  saveJson: "결과 (JSON)",
  saveAll: "모든 사진의 결과 (JSON)",

  token: "토큰",
  tokenTitle: "토큰이 필요합니다",
  tokenAsk: "이 서버를 사용하려면 토큰이 필요합니다. 토큰은 이 페이지를 닫거나 새로 고칠 때까지만 보관됩니다.",
  tokenWrong: "서버가 이 토큰을 받아들이지 않았습니다. 다시 확인해 주세요.",
  tokenUse: "사용하기",
  cancel: "취소",

  dismiss: "닫기",
  offline: "서버가 응답하지 않습니다. 서버가 실행 중인지 확인한 뒤 다시 시도해 주세요.",
  offlineLarge: ({ size }) =>
    `서버가 응답하지 않습니다. 서버가 꺼졌거나 ${size} MB 크기의 파일을 받지 않는 것일 수 있습니다. ` +
    "다시 시도하시거나 더 작은 사진을 사용해 주세요.",
  slow: "서버의 처리가 너무 오래 걸렸습니다. 다시 시도하시거나 더 작은 사진을 사용해 주세요.",
  strange: "서버의 응답을 이해할 수 없습니다. 페이지를 새로 고쳐 주세요.",
  refused: ({ line }) => line,
  noModel: "모델을 불러오지 못했습니다. 연결을 확인한 뒤 다시 시도해 주세요.",
  deviceFailed: "이 기기에서 사진을 처리하지 못했습니다. 더 작은 사진을 사용해 주세요.",
  unknownFormat: "브라우저가 이 사진을 읽을 수 없습니다. JPEG나 PNG로 저장한 뒤 다시 시도해 주세요.",
  tooLarge: ({ most }) => `사진이 ${most * 100}만 화소를 넘습니다. 먼저 줄여 주세요.`,
  noToken: "토큰이 없으면 서버가 결과를 주지 않습니다. 다시 시도를 눌러 토큰을 입력해 주세요.",
  unreadable: "브라우저가 이 파일을 읽을 수 없습니다. 폴더이거나, 옮겨졌거나 바뀐 파일일 수 있습니다.",
  noFiles: "사진 파일이 들어 있지 않습니다. 사진을 파일로 저장한 뒤 끌어다 놓아 주세요.",
  notShown: "브라우저가 이 형식을 보여 줄 수 없습니다. 상자의 위치는 정확합니다.",
  notDrawn: "브라우저가 이 사진을 그릴 수 없습니다. 모르는 형식이거나 너무 큰 사진입니다.",
  cameraInsecure: "카메라는 이 컴퓨터(localhost)나 https로 연 페이지에서만 사용할 수 있습니다. 사진은 그대로 사용하실 수 있습니다.",
  cameraRefused: "카메라 사용이 허용되지 않았습니다. 브라우저 설정에서 이 페이지에 카메라를 허용한 뒤 다시 시도해 주세요.",
  cameraMissing: "카메라를 찾을 수 없습니다. 카메라를 연결하시거나 사진을 선택해 주세요.",
  cameraTaken: "카메라 화면을 읽을 수 없습니다. 다른 프로그램이 사용하고 있을 수 있습니다.",
  cameraEnded: "카메라가 멈췄습니다. 다시 연결한 뒤 켜 주세요.",
  cameraHidden: "페이지가 보이지 않는 동안 카메라를 껐습니다.",
};

const LANGUAGES = { en: ENGLISH, ko: KOREAN };
let words = ENGLISH;

/** Switches the language to `code` ("en" or "ko") and puts its texts into the page. */
export function speak(code) {
  words = LANGUAGES[code] ?? ENGLISH;
  document.documentElement.lang = words === KOREAN ? "ko" : "en";
  document.title = words.title;
  for (const element of document.querySelectorAll("[data-words]")) element.textContent = say(element.dataset.words);
  for (const element of document.querySelectorAll("[data-words-label]")) {
    element.setAttribute("aria-label", say(element.dataset.wordsLabel));
  }
}

/** The text of `key`, filled with `values`. */
export function say(key, values = {}) {
  const text = words[key];
  return typeof text === "function" ? text(values) : text;
}

/** A class's name in the page's language; a class of another bundle keeps its name. */
export function className(name) {
  const key = `class.${name}`;
  return Object.hasOwn(words, key) ? words[key] : name;
}
